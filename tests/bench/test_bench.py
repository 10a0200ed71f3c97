"""The benchmarks, on the smallest models: what they measure, print and write."""

import json

import pytest
import torch

from moppa.bench.cell import cell_phases
from moppa.bench.steps import Setup, optimization_gains
from moppa.utils.errors import UserError
from tests.run_script import script

SMALL = ["--timm", "test_vit", "--image-size", 64, "--rounds", 1, "--batch", 4]


def bench(tmp_path, *arguments):
    done = script("bench", *arguments, *SMALL, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("*.json")
    return done.stdout, json.loads(path.read_text())


@pytest.mark.slow
def test_methods_are_compared_with_the_frozen_backbone(tmp_path):
    bench(tmp_path, "methods", "--methods", "lora")
    table, result = bench(tmp_path, "methods", "--methods", "linear")  # the earlier result stays
    assert "of GEMM" in table
    assert "lora" in table
    assert result["machine"]["gemm_flops_per_second"] > 1e9
    assert result["machine"]["copy_bytes_per_second"] > 1e8
    assert result["methods"]["linear"]["trainable_params"] == 0
    assert result["methods"]["lora"]["trainable_params"] == 6 * 2 * 2 * 64 * 8
    for cost in result["methods"].values():
        assert cost["step_flops"] > 1.5 * cost["evaluation_flops"] or cost["trainable_params"] == 0
        assert min(cost["step_seconds"], cost["plain_seconds"], cost["evaluation_seconds"]) > 0
        assert cost["peak_memory_bytes"] > 1e8
        assert 0 < cost["step_memory_bytes"] < cost["peak_memory_bytes"]


def test_every_optimization_is_switched_off_alone():
    setup = Setup(timm_name="test_vit", image_size=64, batch_size=4, device=torch.device("cpu"), rounds=1)
    gains = optimization_gains(setup)
    assert set(gains["evaluation"]) < {*gains["step"], "not merged"}
    assert all(seconds > 0 for times in gains.values() for seconds in times.values())


@pytest.mark.slow  # trains whole cells
@pytest.mark.parametrize("rival", ["peft", "plain"])
def test_whole_cells_are_extrapolated_for_both_sides(rival, tmp_path):
    table, result = bench(tmp_path, "--against", rival, "--images", 8)
    assert f"epoch: {rival} / ours" in table
    ours, evaluated_once, evaluated_often = result["cell"].values()
    assert 0 < evaluated_once < evaluated_often
    seconds = result["seconds_per_image"]
    assert ours == pytest.approx(
        6400 * seconds["prepare"] + 1e5 * seconds["epoch, ours"] + 5400 * seconds["test, ours"]
    )


@pytest.mark.slow
def test_the_phases_of_a_cell_add_up_to_its_seconds(toy, tmp_path):
    table, result = bench(tmp_path, "cell", "method=linear", *toy)
    assert "evaluate" in table
    *phases, total = result["seconds"].values()
    assert sum(phases) == pytest.approx(total)


@pytest.mark.slow  # starts a cell in a Python of its own
def test_a_failing_cell_is_reported_with_its_error():
    with pytest.raises(UserError, match=r"run.py task=eurosat .* failed: .*seed=-1"):
        cell_phases(["task=eurosat", "seed=-1", "backbone=test_vit"])
