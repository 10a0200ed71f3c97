import os
import signal

import numpy as np
import pytest
import torch

from moppa.data.split import Split
from moppa.peft.collect import trainable_parameters
from moppa.peft.method import attach_method
from moppa.train.batches import training_batches
from moppa.train.checkpoint import Checkpoint
from moppa.train.evaluate import Evaluator
from moppa.train.loggers import NoLogger
from moppa.train.loop import train
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.seeds import generator_for
from moppa.utils.signals import EXIT_REQUEUE, Stopped
from tests.conftest import config_of

EPOCHS = 4
TRAIN_SPLIT = Split(
    images=np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8),
    labels=np.arange(40) % 10,
    digest="generated",
)


class CallsAtStep(NoLogger):
    """Calls a function at the end of one epoch."""

    def __init__(self, function, step):
        self.function, self.step = function, step

    def log(self, values, *, step):
        if step == self.step:
            self.function()


def run(folder, *, logger=None, seed=0, method="moppa", code="this", every=2, augment=None, **recipe):
    overrides = [f"train.{name}={value}" for name, value in {"epochs": EPOCHS, "batch_size": 16, **recipe}.items()]
    config = config_of("task=eurosat", "backbone=test_vit", f"method={method}", *overrides)
    backbone = instantiate(config, "backbone")
    model = backbone.build(num_classes=10, drop_path=0.5, generator=generator_for(seed, "head"))
    method = instantiate(config, "method.attach", _partial_=True)
    attach_method(model, method, generator=generator_for(seed, "method"), examples=list)
    preprocess = backbone.preprocess(model)
    result = train(
        model,
        TRAIN_SPLIT,
        recipe=instantiate(config, "train"),
        normalize=preprocess.normalize,
        seed=seed,
        checkpoint=Checkpoint(path=folder / "c.pt", epochs=every, code={"code": code}),
        logger=logger or NoLogger(),
        on_epoch=lambda *_: {},
        augment=augment(preprocess, seed) if augment else None,
    )
    return {
        name: tensor.detach().numpy().tobytes() for name, tensor in trainable_parameters(model).items()
    }, result.curve


def crash():
    raise ConnectionError("the machine crashed")


def test_the_loss_falls_and_the_curve_has_every_epoch(tmp_path):
    _, curve = run(tmp_path, lr=0.01)
    assert len(curve) == EPOCHS
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_a_cell_run_twice_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    first = run(tmp_path / "a")
    assert run(tmp_path / "b") == first
    assert run(tmp_path / "c", seed=1) != first


def test_an_evaluation_halves_its_batch_size_until_a_batch_fits():
    shapes = []

    class Limited(torch.nn.Linear):
        """A model on a device with memory for three images."""

        def get_classifier(self):
            return self

        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError("out of memory")
            shapes.append(len(x))
            return super().forward(x)

    images = np.random.default_rng(0).random((11, 5), dtype=np.float32)
    evaluator = Evaluator(normalize=lambda x: x, batch_size=8)
    model = Limited(5, 4)
    expected = model(torch.from_numpy(images[:3])).argmax(dim=1)
    shapes.clear()
    predicted = evaluator.predict(model, images)
    assert shapes == [2, 2, 2, 2, 2, 1]
    assert predicted[:3].tolist() == expected.tolist()
    model.forward = lambda x: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory at all"))
    with pytest.raises(torch.OutOfMemoryError, match="at all"):
        evaluator.predict(model, images)


@pytest.mark.parametrize(
    "step", [6, pytest.param(9, marks=pytest.mark.slow)]
)  # after the checkpoint of epoch 2, and an epoch later
def test_a_killed_cell_resumes_bit_for_bit(tmp_path, step):
    whole = run(tmp_path / "a")
    with pytest.raises(ConnectionError):
        run(tmp_path / "b", logger=CallsAtStep(crash, step))
    # the crash comes at the end of an epoch, before its checkpoint is written
    assert (tmp_path / "b" / "c.pt").exists() == (step > 6)
    assert run(tmp_path / "b") == whole


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, EXIT_REQUEUE)])
def test_a_signal_leaves_a_checkpoint_from_which_the_training_resumes_bit_for_bit(tmp_path, number, status, capsys):
    whole = run(tmp_path / "a", every=100)
    before = signal.getsignal(signal.SIGINT)  # it is ignored if the tests run in the background
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "b", every=100, logger=CallsAtStep(lambda: os.kill(os.getpid(), number), 3))
    assert stopped.value.code == status
    assert "after step 3 of 12" in stopped.value.message
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["c.pt"]
    assert run(tmp_path / "b", every=100) == whole
    assert "resuming at step 3" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def test_a_checkpoint_from_other_code_or_a_damaged_one_is_not_used(tmp_path, capsys):
    whole = run(tmp_path / "a")
    for change in (lambda content: content, lambda content: content[:1000]):
        with pytest.raises(Stopped):
            run(tmp_path / "b", code="other", logger=CallsAtStep(lambda: os.kill(os.getpid(), signal.SIGINT), 6))
        file = tmp_path / "b" / "c.pt"
        file.write_bytes(change(file.read_bytes()))
        assert run(tmp_path / "b") == whole
        assert "starts over" in capsys.readouterr().out
        file.unlink()


def test_a_checkpoint_from_another_kind_of_device_is_refused_with_one_line(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path, logger=CallsAtStep(lambda: os.kill(os.getpid(), signal.SIGINT), 6))
    checkpoint = Checkpoint(path=tmp_path / "c.pt", epochs=2, code={"code": "this"})
    checkpoint.write({**checkpoint.read(torch.device("cpu")), "device": "cuda"})
    with pytest.raises(UserError, match=r"c\.pt is from cuda, and cpu .*use run\.device=cuda, or delete it"):
        run(tmp_path)
    assert checkpoint.path.exists()


def test_a_loss_that_is_not_finite_ends_the_cell_and_names_its_step(tmp_path):
    with pytest.raises(UserError, match=r"not finite at step \d+ of 12 .*lower train\.lr"):
        run(tmp_path, lr=1e30, warmup=0)


def test_the_lr_rises_linearly_and_falls_as_a_cosine():
    recipe = instantiate(config_of("task=eurosat", "train.epochs=100"), "train")
    lrs = [recipe.lr_at(step, 1600) for step in range(1600)]
    assert lrs[0] == 1e-6
    assert lrs[80] == pytest.approx((1e-6 + 1e-3) / 2)
    assert lrs[160] == max(lrs) == 1e-3
    assert lrs[880] == pytest.approx((1e-3 + 1e-5) / 2)
    assert lrs[-1] == pytest.approx(1e-5, rel=0.01)
    assert lrs[160:] == sorted(lrs[160:], reverse=True)


def test_an_epoch_has_every_image_once_and_a_resumed_one_the_same_batches():
    recipe = instantiate(config_of("task=eurosat", "train.epochs=3", "train.batch_size=16"), "train")
    all_steps = list(training_batches(40, recipe, seed=0, start=0))
    assert [step for step, _ in all_steps] == list(range(9))
    epochs = [torch.cat([batch for _, batch in all_steps[start : start + 3]]).tolist() for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for (_, resumed), (_, batch) in zip(training_batches(40, recipe, seed=0, start=4), all_steps[4:], strict=True):
        assert torch.equal(resumed, batch)


def test_sgd_is_a_choice(tmp_path):
    assert run(tmp_path / "a", optimizer="sgd") != run(tmp_path / "b")
