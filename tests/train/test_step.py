"""Steps that are recorded and replayed are the eager steps, bit for bit: on a CPU with a stand-in for CUDA graphs."""

from unittest import mock

import numpy as np
import pytest
import torch

from moppa.data.split import Split
from moppa.peft.collect import trainable_parameters
from moppa.train import loop, step
from moppa.train.checkpoint import Checkpoint
from moppa.train.loggers import NoLogger
from moppa.train.recipe import Recipe
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import METHODS, config_of
from tests.models import model_with
from tests.test_laws import is_defined, with_drop_path
from tests.train.recorder import record

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
SPLIT = Split(images=IMAGES, labels=np.arange(10) % 10, digest="generated")
CPU = torch.device("cpu")


class StopsAfter(NoLogger):
    """Raises at the end of an epoch, before its checkpoint is written."""

    def __init__(self, step):
        self.step = step

    def log(self, values, *, step):
        if step == self.step:
            raise ConnectionError


def train(method, folder, recorder, *, logger=None, drop_path=0.3, optimizer="adamw"):
    """Trains for two epochs of two steps, the second with a smaller batch; returns losses, tensors, diagnostics."""
    config = config_of("task=eurosat", "train.epochs=2", "train.batch_size=6", f"train.optimizer={optimizer}")
    model = with_drop_path(model_with(method, "class token" if is_defined(method, "class token") else "convnext"), 0.3)
    create = Recipe.create_optimizer
    losses = []

    def with_lr_tensor(recipe, parameters, capturable):
        return create(recipe, parameters, capturable=True)

    epoch_values = loop.epoch_values
    with (
        mock.patch.object(loop, "recorder_for", return_value=recorder),
        mock.patch.object(Recipe, "create_optimizer", with_lr_tensor),
        mock.patch.object(loop, "epoch_values", lambda *args: losses.append(args[0].tolist()) or epoch_values(*args)),
    ):
        result = loop.train(
            model,
            SPLIT,
            recipe=instantiate(config, "train"),
            normalize=instantiate(config, "backbone").preprocess(model).normalize,
            seed=0,
            checkpoint=Checkpoint(path=folder / "c.pt", epochs=1, code={}),
            logger=logger or NoLogger(),
            on_epoch=lambda *_: {},
        )
    trained = {name: tensor.tolist() for name, tensor in trainable_parameters(model).items()}
    return losses[-1], trained, {name: values.tolist() for name, values in result.diagnostics.items()}


@pytest.mark.parametrize("method", METHODS)
def test_replayed_steps_are_the_eager_steps(method, tmp_path):
    assert train(method, tmp_path / "a", record) == train(method, tmp_path / "b", None)


def test_replayed_steps_of_sgd_are_the_eager_steps(tmp_path):
    eager = train("lora", tmp_path / "a", None, optimizer="sgd")
    assert train("lora", tmp_path / "b", record, optimizer="sgd") == eager


@pytest.mark.parametrize(
    "recorders", [[record, record], [record, None], [None, record]], ids=["both", "before", "after"]
)
def test_a_training_resumes_with_the_same_bits_in_either_mode(recorders, tmp_path):
    whole = train("moppa", tmp_path / "a", None)
    with pytest.raises(ConnectionError):
        train("moppa", tmp_path / "b", recorders[0], logger=StopsAfter(4))
    assert train("moppa", tmp_path / "b", recorders[1]) == whole


def test_there_is_one_recording_for_each_batch_size(tmp_path):
    recorder = mock.Mock(side_effect=record)
    train("linear", tmp_path, recorder)
    assert recorder.call_count == 2


def fails(function):
    function()
    raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be")


def test_a_step_that_cannot_be_recorded_is_taken_eagerly_with_one_line(tmp_path, capsys):
    eager = train("lora", tmp_path / "a", None)
    assert train("lora", tmp_path / "b", fails) == eager
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
