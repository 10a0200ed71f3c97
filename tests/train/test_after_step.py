"""What a method does after a step is the same in every step mode, and a training resumes with it bit for bit."""

import pytest
import torch

from moppa.peft.collect import step_updates
from moppa.train import compiled_blocks
from tests.models import model_with
from tests.train.recorder import record
from tests.train.trainings import StopsAfter, train

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Losses, tensors and diagnostics of an eager training of six steps, the last three of which prune."""
    return train("adalora", tmp_path_factory.mktemp("whole"), epochs=3)


@pytest.mark.slow
def test_a_recorded_training_prunes_as_the_eager_one(whole, tmp_path):
    assert train("adalora", tmp_path, epochs=3, recorder=record) == whole


@pytest.mark.slow
def test_a_compiled_training_prunes_as_the_eager_one(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)
    monkeypatch.setattr(compiled_blocks, "configure_compiler", lambda: None)
    losses, _, diagnostics = train("adalora", tmp_path, epochs=3, step="compiled")
    assert losses == pytest.approx(whole[0], rel=1e-2)
    assert diagnostics.keys() == whole[2].keys()


@pytest.mark.parametrize(
    "recorders", [pytest.param([None, None], marks=pytest.mark.slow), [record, None]], ids=["eager", "recorded before"]
)
def test_a_training_that_prunes_resumes_with_the_same_bits(whole, recorders, tmp_path):
    with pytest.raises(ConnectionError):
        train("adalora", tmp_path, epochs=3, recorder=recorders[0], logger=StopsAfter(4))
    assert train("adalora", tmp_path, epochs=3, recorder=recorders[1]) == whole


def test_half_of_the_ranks_are_left(whole):
    [ranks] = whole[2].values()
    assert sum(ranks[-1]) == 3 * 6


def test_a_method_without_an_update_has_none():
    step_updates(model_with("lora"))(0.5)
