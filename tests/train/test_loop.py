import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from moppa.data.cache import Split
from moppa.peft.collect import trainable_parameters
from moppa.train.checkpoint import Checkpoint
from moppa.train.evaluate import predict
from moppa.train.loggers import NoLogger
from moppa.train.loop import batches, train
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.seeds import generator_for
from moppa.utils.signals import EXIT_REQUEUE, Stopped
from tests.conftest import ROOT, config_of

EPOCHS = 4
LEARNED = Split(
    images=np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8),
    labels=np.arange(40) % 10,
    digest="drawn",
)


class Interrupting(NoLogger):
    """Does something at the end of one epoch."""

    def __init__(self, act, step):
        self.act, self.step = act, step

    def log(self, values, *, step):
        if step == self.step:
            self.act()


def run(path, *, logger=None, seed=0, method="moppa", code="this", every=2, **recipe):
    overrides = [f"train.{name}={value}" for name, value in {"epochs": EPOCHS, "batch_size": 16, **recipe}.items()]
    config = config_of("task=eurosat", "backbone=test_vit", f"method={method}", *overrides)
    backbone = instantiate(config, "backbone")
    model = backbone.build(num_classes=10, drop_path=0.5, generator=generator_for(seed, "head"))
    instantiate(config, "method.attach", _partial_=True)(model, generator=generator_for(seed, "method"))
    training = train(
        model,
        LEARNED,
        recipe=instantiate(config, "train"),
        normalize=backbone.preprocess(model).normalize,
        seed=seed,
        checkpoint=Checkpoint(path=path / "c.pt", epochs=every, code={"code": code}),
        logger=logger or NoLogger(),
        watch=lambda *_: {},
    )
    return {
        name: tensor.detach().numpy().tobytes() for name, tensor in trainable_parameters(model).items()
    }, training.curve


def crash():
    raise ConnectionError("the power went out")


def test_the_loss_falls_and_the_curve_has_every_epoch(tmp_path):
    _, curve = run(tmp_path, lr=0.01)
    assert len(curve) == EPOCHS
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_a_cell_run_twice_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    first = run(tmp_path / "a")
    assert run(tmp_path / "b") == first
    assert run(tmp_path / "c", seed=1) != first


def test_a_look_halves_its_batches_until_they_fit():
    shapes = []

    class Small(torch.nn.Linear):
        """A model on a device with room for three images."""

        def get_classifier(self):
            return self

        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError("no room")
            shapes.append(len(x))
            return super().forward(x)

    images, look = np.random.default_rng(0).random((11, 5), dtype=np.float32), {"normalize": lambda x: x}
    model = Small(5, 4)
    expected = model(torch.from_numpy(images[:3])).argmax(dim=1)
    shapes.clear()
    found = predict(model, images, batch_size=8, **look)
    assert shapes == [2, 2, 2, 2, 2, 1]
    assert found[:3].tolist() == expected.tolist()
    model.forward = lambda x: (_ for _ in ()).throw(torch.OutOfMemoryError("no room at all"))
    with pytest.raises(torch.OutOfMemoryError, match="at all"):
        predict(model, images, batch_size=8, **look)


@pytest.mark.slow  # a compiler at work
def test_a_compiled_step_is_the_same_step_and_is_compiled_once_for_all_seeds(tmp_path):
    """In a process of its own: the tests' type checks would be compiled too."""
    program = """
import json
from torch._dynamo.utils import counters
from moppa import record
from run import run_cell
from tests import conftest

def losses_of(mode, method, seed):
    place = [f"run.results=PLACE/{mode}", "data.cache=PLACE/store", f"run.compile={mode}"]
    words = [*conftest.TOY, *place, f"method={method}", "train.drop_path=0", f"seed={seed}"]
    return [one["loss"] for one in record.read(run_cell(conftest.config_of(*words)).record)["curve"]]

for method in ("lora", "moppa", "ssf", "adapter", "bitfit"):
    losses = [losses_of(mode, method, seed=0) for mode in ("null", "default")]
    graphs = counters["stats"]["unique_graphs"]
    losses_of("default", method, seed=1)
    print("told", json.dumps([method, *losses, counters["stats"]["unique_graphs"] - graphs]))
"""
    program = program.replace("PLACE", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line.removeprefix("told ")) for line in done.stdout.splitlines() if line.startswith("told ")]
    assert len(told) == 5
    for method, plain, compiled, more_graphs in told:
        assert compiled == pytest.approx(plain, rel=1e-4), method
        assert compiled != plain, f"{method} was not compiled"
        assert more_graphs == 0, f"{method} was compiled anew for another seed"


@pytest.mark.parametrize("step", [6, 9])  # after the checkpoint of epoch 2, and an epoch later
def test_a_killed_cell_resumes_to_the_same_bytes(tmp_path, step):
    whole = run(tmp_path / "a")
    with pytest.raises(ConnectionError):
        run(tmp_path / "b", logger=Interrupting(crash, step))
    # the crash comes at the end of an epoch, before that epoch's own checkpoint
    assert (tmp_path / "b" / "c.pt").exists() == (step > 6)
    assert run(tmp_path / "b") == whole


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, EXIT_REQUEUE)])
def test_a_signal_leaves_a_checkpoint_from_which_the_same_bytes_come(tmp_path, number, status, capsys):
    whole = run(tmp_path / "a", every=100)
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests themselves run in the background
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "b", every=100, logger=Interrupting(lambda: os.kill(os.getpid(), number), 3))
    assert stopped.value.code == status
    assert "after step 3 of 12" in stopped.value.message
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["c.pt"]
    assert run(tmp_path / "b", every=100) == whole
    assert "resuming at step 3" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def test_a_checkpoint_of_other_code_or_a_damaged_one_is_not_used(tmp_path, capsys):
    whole = run(tmp_path / "a")
    for spoil in (lambda content: content, lambda content: content[:1000]):
        with pytest.raises(Stopped):
            run(tmp_path / "b", code="other", logger=Interrupting(lambda: os.kill(os.getpid(), signal.SIGINT), 6))
        file = tmp_path / "b" / "c.pt"
        file.write_bytes(spoil(file.read_bytes()))
        assert run(tmp_path / "b") == whole
        assert "begins anew" in capsys.readouterr().out
        file.unlink()


def test_a_loss_that_is_not_finite_ends_the_cell_with_its_step(tmp_path):
    with pytest.raises(UserError, match=r"not finite at step \d+ of 12 .*lower train\.lr"):
        run(tmp_path, lr=1e30, warmup=0)


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
    recipe = instantiate(config_of("task=eurosat", "train.epochs=100"), "train")
    rates = [recipe.rate(step, 1600) for step in range(1600)]
    assert rates[0] == 1e-6
    assert rates[80] == pytest.approx((1e-6 + 1e-3) / 2)
    assert rates[160] == max(rates) == 1e-3
    assert rates[880] == pytest.approx((1e-3 + 1e-5) / 2)
    assert rates[-1] == pytest.approx(1e-5, rel=0.01)
    assert rates[160:] == sorted(rates[160:], reverse=True)


def test_every_epoch_shows_every_image_once_and_resuming_shows_the_same():
    recipe = instantiate(config_of("task=eurosat", "train.epochs=3", "train.batch_size=16"), "train")
    all_steps = list(batches(40, recipe, seed=0, start=0))
    assert [step for step, _ in all_steps] == list(range(9))
    epochs = [torch.cat([batch for _, batch in all_steps[start : start + 3]]).tolist() for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for (_, resumed), (_, batch) in zip(batches(40, recipe, seed=0, start=4), all_steps[4:], strict=True):
        assert torch.equal(resumed, batch)


def test_sgd_is_a_choice(tmp_path):
    assert run(tmp_path / "a", optimizer="sgd") != run(tmp_path / "b")
