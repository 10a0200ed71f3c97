"""What only a GPU can show: `make gpu` runs these tests. MOPPA_GPU_TESTS=cpu rehearses them on a CPU."""

import os
from contextlib import nullcontext

import numpy as np
import pytest
import timm
import torch

import moppa
from moppa.mixture import kernel_op
from moppa.peft.inject import merge
from moppa.record.schema import read_record
from moppa.train.evaluate import Evaluator
from moppa.train.step import StepRunner, recorder_for
from moppa.utils.device import set_deterministic
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import METHODS, config_of
from tests.models import batch, frozen_model
from tests.train.recorder import record
from tests.train.trainings import SPLIT, StopsAfter, model_for, train

DEVICE = os.environ.get("MOPPA_GPU_TESTS", "cuda")
IS_REHEARSAL = DEVICE == "cpu"
CAPTURED = {"recorder": record} if IS_REHEARSAL else {"step": "captured"}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not IS_REHEARSAL and not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def assert_same(actual, expected, again):
    """Compares two trainings bit for bit if two like `expected` are equal; some kernels add in any order."""
    if actual == expected:
        return
    assert again() != expected, "the bits differ, though the same training gives the same bits twice"
    for ours, theirs in zip(actual[:2], expected[:2], strict=True):
        torch.testing.assert_close(flat(ours), flat(theirs), rtol=1e-3, atol=1e-4)


def flat(values):
    """Returns the losses, or the trained tensors by name, as one tensor."""
    return torch.cat(
        [torch.tensor(part).flatten() for part in (values.values() if isinstance(values, dict) else [values])]
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_method_attaches_on_the_gpu_and_its_captured_steps_are_the_eager_steps(method, tmp_path):
    def eager(name="again"):
        return train(method, tmp_path / name, device=DEVICE)

    expected = eager("eager")
    assert_same(train(method, tmp_path / "captured", device=DEVICE, **CAPTURED), expected, eager)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_evaluates_on_the_gpu_as_on_the_cpu(method):
    model = merge(model_for(method, drop_path=0.0))
    evaluator = Evaluator(normalize=lambda images: images.permute(0, 3, 1, 2) / 255, batch_size=4, precision="float32")

    def logits(device):
        outputs = evaluator.run(model.to(device), model.forward, SPLIT.images, title="evaluate")
        return torch.cat([output.detach().cpu() for output in outputs])

    torch.testing.assert_close(logits(DEVICE), logits("cpu"), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(IS_REHEARSAL, reason="tests/mixture/test_kernel.py has the same in Triton's interpreter")
@pytest.mark.parametrize("precision", ["float32", "bf16-mixed", "bf16"])
def test_moppas_kernel_is_used_and_trains_as_the_other_path(precision, tmp_path, monkeypatch):
    solve, num_calls = kernel_op.solve, []
    monkeypatch.setattr(
        kernel_op, "solve", lambda *tensors, **settings: num_calls.append(1) or solve(*tensors, **settings)
    )
    losses, _ = train("moppa", tmp_path / "kernel", device=DEVICE, precision=precision, drop_path=0.0)[:2]
    assert num_calls, "no unit used the kernel"
    num_calls.clear()
    monkeypatch.setattr(kernel_op, "works", lambda device: False)
    expected, _ = train("moppa", tmp_path / "plain", device=DEVICE, precision=precision, drop_path=0.0)[:2]
    assert not num_calls
    assert losses == pytest.approx(expected, rel=1e-3 if precision == "float32" else 0.05)


@pytest.mark.parametrize(("backbone", "position"), [("swin", "qv"), ("convnext", "attn_input")])
def test_moppa_steps_on_other_backbones(backbone, position):
    model = frozen_model(backbone).to(DEVICE).train()
    moppa.attach(model, position=position)
    images, labels = (tensor.to(DEVICE) for tensor in batch())
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
    (loss + moppa.penalty(model, 0.0)).backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("method", ["lora", "moppa", "vpt_deep", "ssf"])
def test_the_gpu_trains_as_the_cpu(method, tmp_path):
    settings = {"precision": "float32", "drop_path": 0.0}
    losses = [train(method, tmp_path / device, device=device, **settings)[0] for device in (DEVICE, "cpu")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize(
    "steps",
    [(CAPTURED, CAPTURED), (CAPTURED, {}), ({}, CAPTURED)],
    ids=["captured-captured", "captured-eager", "eager-captured"],
)
def test_a_training_resumes_with_the_same_bits(steps, tmp_path):
    def whole(name="again"):
        return train("moppa", tmp_path / name, device=DEVICE, epochs=3)

    expected = whole("whole")
    with pytest.raises(ConnectionError):
        train("moppa", tmp_path / "part", device=DEVICE, epochs=3, logger=StopsAfter(4), **steps[0])
    assert_same(train("moppa", tmp_path / "part", device=DEVICE, epochs=3, **steps[1]), expected, whole)


@pytest.mark.parametrize("precision", ["float32", "bf16-mixed"])
@pytest.mark.parametrize("method", ["lora", "moppa"])
def test_deterministic_trainings_have_the_same_bits(method, precision, tmp_path):
    set_deterministic(True)
    try:
        first, second = (
            train(method, tmp_path / name, device=DEVICE, precision=precision, **CAPTURED)
            for name in ("first", "second")
        )
    finally:
        set_deterministic(False)
    assert first == second


@pytest.mark.skipif(IS_REHEARSAL, reason="compiles for a minute; tests/train/test_compiled_blocks.py does so on a CPU")
@pytest.mark.parametrize("method", ["lora", "moppa"])
def test_compiled_steps_are_the_eager_steps_up_to_rounding(method, tmp_path):
    compiled, eager = (
        train(method, tmp_path / step, device=DEVICE, step=step, precision="float32")[0]
        for step in ("compiled", "eager")
    )
    assert compiled == pytest.approx(eager, rel=1e-2)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
@pytest.mark.parametrize("method", ["lora", "moppa", "vpt_deep", "ssf", "spt_lora", "full"])
def test_half_precision_trains_as_float32(method, precision, tmp_path):
    losses = [
        train(method, tmp_path / name, device=DEVICE, precision=name, **CAPTURED)[0] for name in (precision, "float32")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


@pytest.mark.skipif(IS_REHEARSAL, reason="tests/train/test_step.py has the same for a CPU")
def test_a_step_that_cannot_be_captured_is_taken_eagerly_and_draws_its_random_numbers(capsys):
    model, device = torch.nn.Linear(3, 2).to(DEVICE), torch.device(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(1.0, device=device), fused=True)

    def compute(indices, progress):
        draws = torch.rand(len(indices), device=device)
        return draws.sum() + float(draws.sum())  # the host waits for the number, which a graph cannot

    record = recorder_for("captured", device)
    take_step = StepRunner(compute, model=model, optimizer=optimizer, device=device, record=record, falls_back=True)
    losses = [float(take_step(torch.arange(2, device=device), lr=1.0, progress=0.0)) for _ in range(2)]
    assert losses[0] != losses[1]
    assert "takes eager steps" in capsys.readouterr().err


def test_moppa_attaches_to_a_model_on_the_gpu():
    model = timm.create_model("test_vit", img_size=64, num_classes=10).to(DEVICE)
    moppa.attach(model)
    assert {parameter.device.type for parameter in model.parameters()} == {DEVICE}
    assert model(batch()[0].to(DEVICE)).shape == (6, 10)


def test_a_checkpoint_of_the_gpu_is_refused_on_the_cpu(tmp_path):
    with pytest.raises(ConnectionError):
        train("lora", tmp_path, device=DEVICE, logger=StopsAfter(4), epochs=3)
    refused = nullcontext() if IS_REHEARSAL else pytest.raises(UserError, match=r"is from cuda.*run\.device=cuda")
    with refused:
        train("lora", tmp_path, device="cpu", epochs=3)


@pytest.mark.parametrize("method", ["lora", "linear"])
def test_a_cell_runs_on_the_gpu(method, toy):
    record = read_record(
        run_cell(config_of(*toy, f"method={method}", "train.epochs=12", f"run.device={DEVICE}")).record
    )
    assert record["device"]["type"] == DEVICE
    assert record["dtype"] == ("float32" if IS_REHEARSAL else "bfloat16")
    assert record["correct"] / record["total"] > 0.3
    assert np.isfinite([epoch["loss"] for epoch in record["curve"]]).all()
