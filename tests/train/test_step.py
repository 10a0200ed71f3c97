"""Steps that are recorded and replayed are the eager steps, bit for bit: on a CPU with a stand-in for CUDA graphs."""

from unittest import mock

import pytest
import torch

from moppa.train import step
from moppa.utils.errors import UserError
from tests.conftest import METHODS, QUICK_METHODS, mostly_slow
from tests.train.recorder import record
from tests.train.trainings import StopsAfter, train

CPU = torch.device("cpu")


@pytest.mark.parametrize("method", mostly_slow(METHODS, QUICK_METHODS))
def test_replayed_steps_are_the_eager_steps(method, tmp_path):
    assert train(method, tmp_path / "a", recorder=record) == train(method, tmp_path / "b")


def test_replayed_steps_of_sgd_are_the_eager_steps(tmp_path):
    eager = train("lora", tmp_path / "a", optimizer="sgd")
    assert train("lora", tmp_path / "b", recorder=record, optimizer="sgd") == eager


@pytest.mark.parametrize(
    "recorders", [[record, record], [record, None], [None, record]], ids=["both", "before", "after"]
)
def test_a_training_resumes_with_the_same_bits_in_either_mode(recorders, tmp_path):
    whole = train("moppa", tmp_path / "a", epochs=3)
    with pytest.raises(ConnectionError):
        train("moppa", tmp_path / "b", recorder=recorders[0], epochs=3, logger=StopsAfter(4))
    assert train("moppa", tmp_path / "b", recorder=recorders[1], epochs=3) == whole


def test_there_is_one_recording_for_each_batch_size(tmp_path):
    recorder = mock.Mock(side_effect=record)
    train("linear", tmp_path, recorder=recorder)
    assert recorder.call_count == 2


def fails(function):
    function()
    raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be")


def test_a_step_that_cannot_be_recorded_is_taken_eagerly_with_one_line(tmp_path, capsys):
    eager = train("lora", tmp_path / "a")
    assert train("lora", tmp_path / "b", recorder=fails) == eager
    [line] = [line for line in capsys.readouterr().err.splitlines() if "run.step" in line]
    assert line.endswith("(RuntimeError: operation not permitted when stream is capturing)")


def runner(record, *, falls_back):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    compute = lambda batch, progress: model(torch.ones(3)).sum()  # noqa: E731
    return step.StepRunner(compute, model=model, optimizer=optimizer, device=CPU, record=record, falls_back=falls_back)


def test_a_recording_that_the_user_asked_for_must_not_fail():
    with pytest.raises(UserError, match=r"run\.step: this step cannot be recorded .*use run\.step=eager"):
        runner(fails, falls_back=False)(torch.arange(2), lr=1.0, progress=0.0)


def test_the_mode_follows_from_the_device():
    cuda = torch.device("cuda")
    assert (step.step_mode("auto", CPU), step.step_mode("auto", cuda)) == ("eager", "captured")
    assert step.step_mode("compiled", CPU) == "compiled"
    with pytest.raises(UserError, match=r"run\.step='captured' needs a CUDA graph and so a GPU"):
        step.step_mode("captured", CPU)
    with pytest.raises(UserError, match=r"run\.step='fast': it must be one of auto, eager, captured, compiled"):
        step.step_mode("fast", cuda)
