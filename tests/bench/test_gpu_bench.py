"""`moppa gpu` on a machine without a GPU: every part runs, one that fails does not stop the others."""

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from moppa.bench import gpu, step_modes, steps
from moppa.bench.gpu import ON_CPU, run_part, size_for, table
from moppa.bench.steps import Setup
from moppa.cli import gpu as command
from moppa.utils.config import instantiate
from tests.conftest import ROOT, config_of

CPU = torch.device("cpu")
SETUP = Setup(timm_name="test_vit", image_size=32, batch_size=2, device=CPU, rounds=1)


@pytest.mark.slow
def test_every_mode_is_measured_and_a_failing_one_is_named():
    kept = []
    modes = [("eager", "bf16"), ("captured", "float32")]
    step_modes.measure_steps(
        SETUP, ["linear", "lora"], modes, keep=lambda rows: kept.append(len(rows)) or results(rows)
    )
    assert kept == [1, 2, 3, 4]
    rows = {(row["method"], row["step"], row["precision"]): row for row in results.rows}
    assert len(rows) == 4
    for (method, step, _), row in rows.items():
        if step == "captured":
            assert row["error"].startswith("SettingError: run.step='captured' needs")
        else:
            assert row["step_seconds"] > 0
            assert row["step_flops"] > (1e7 if method == "lora" else 1e6)


def test_the_blocks_of_a_measured_step_stay_compiled():
    model = steps.with_method("lora", SETUP.frozen_backbone())
    step = steps.training_step(model, *SETUP.random_batch(), replace(SETUP, step="compiled"))
    assert all(block._compiled_call_impl is not None for block in model.blocks)
    del step
    gc.collect()
    assert all(block._compiled_call_impl is None for block in model.blocks)


def results(rows):
    """Keeps the latest rows."""
    results.rows = rows


def test_the_evaluation_is_measured_in_each_precision():
    step_modes.measure_evaluation(SETUP, ["float32", "bf16"], keep=results)
    assert [row["precision"] for row in results.rows] == ["float32", "bf16"]
    assert all(row["seconds_per_image"] > 0 for row in results.rows)


def test_a_part_writes_its_result_and_the_table_shows_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "METHODS", ("lora",))
    monkeypatch.setattr(gpu, "measure_machine", lambda *_, **__: MACHINE)
    for part in ("machine", "steps", "compiled"):
        run_part(part, CPU, tmp_path / f"{part}.json")
    assert not (tmp_path / "compiled.json").exists()
    measured = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in ("machine", "steps")}
    assert not any("error" in row for row in measured["steps"])
    lines = table(
        measured | {"evaluation": None, "peft": {"seconds_per_image": RATIOS}, "cells": {"vit": {"all": 2.0}}}, ON_CPU
    )
    text = "\n".join(lines)
    for words in (
        "TFLOP/s in float32",
        "eager bf16-mixed",
        "lora",
        "peft / ours test_vit: epoch 2.00, test 3.00",
        "all 2.0",
    ):
        assert words in text
    assert max(map(len, lines)) < 120
    assert size_for(torch.device("cuda")) is gpu.ON_GPU


def test_the_cells_read_noise(tmp_path):
    config = config_of(*gpu.noise_cell(ON_CPU, "test_vit", tmp_path))
    task = instantiate(config, "task")
    assert len(list(instantiate(config, "data").examples(task, "test"))) == 20


MACHINE = {"name": "a machine", "gemm_flops_per_second": 1e12, "gemm_dtype": "float32", "copy_bytes_per_second": 1e10}
RATIOS = {"epoch, peft": 2.0, "epoch, ours": 1.0, "test, peft": 3.0, "test, ours": 1.0}


def test_without_results_the_table_is_short():
    assert table({}, ON_CPU) == [f"machine     not measured, torch {torch.__version__}"]


@pytest.mark.slow
def test_the_cells_run_on_noise(tmp_path):
    config = config_of(*gpu.noise_cell(ON_CPU, "test_vit", tmp_path))
    source, task = instantiate(config, "data"), instantiate(config, "task")
    examples = list(source.examples(task, "test"))
    assert len(examples) == ON_CPU.num_test
    assert {example.label for example in examples} == set(range(10))
    assert examples[0].image.shape == (64, 64, 3)
    assert not (examples[0].image == examples[1].image).all()


def test_a_part_that_fails_or_is_late_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    script = tmp_path / "part.py"
    script.write_text(
        """
import json, sys, time
part, out = sys.argv[3], sys.argv[5]
open(out, "w").write(json.dumps({"name": "a machine"} if part == "machine" else []))
if part == "evaluation":
    time.sleep(60)
sys.exit(part == "steps")
"""
    )
    monkeypatch.setattr(command, "MOPPA_COMMAND", [sys.executable, str(script)])
    monkeypatch.setattr(command, "PYTEST", [sys.executable, "-c", "print('3 passed in 1 s')"])
    monkeypatch.setitem(command.LIMITS, "evaluation", 1)
    monkeypatch.setattr(
        command.sys, "argv", ["moppa gpu", "tests", "machine", "steps", "evaluation", "--out", str(tmp_path)]
    )
    assert command.main() == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("machine     a machine")
    for words in ("3 passed in 1 s after", "done after", "failed with status 1 after", "stopped at its limit of 1 s"):
        assert words in out
    assert lines[-1].startswith("no GPU: torch sees none here")
    [path] = tmp_path.glob("gpu-*.json")
    saved = json.loads(path.read_text())
    assert saved["machine"] == {"name": "a machine"}
    assert saved["size"]["timm"] == "test_vit"


def test_an_unknown_part_is_named(monkeypatch, capsys):
    monkeypatch.setattr(command.sys, "argv", ["moppa gpu", "speed"])
    with pytest.raises(SystemExit):
        command.main()
    assert "there is no part speed: choose from tests, machine, steps" in capsys.readouterr().err


@pytest.mark.slow
def test_all_parts_run_without_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.sys, "argv", ["moppa gpu", "--seconds", "600", "--out", str(tmp_path)])
    assert command.main() == 0
    out = capsys.readouterr().out
    assert out.count("done after") == 6, out
    assert "skipped" in out


@pytest.mark.slow
def test_the_tests_of_a_gpu_pass_when_they_are_rehearsed_on_a_cpu():
    arguments = [*command.PYTEST, "-n", "2", str(ROOT / "tests" / "test_gpu.py")]
    done = subprocess.run(
        arguments, cwd=ROOT, env={**os.environ, "MOPPA_GPU_TESTS": "cpu"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
