"""The command from missing experts to the tables, on two tasks of the mini suite that are trained for a moment."""

import json
import shlex
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from moppa.cli import merge, table
from moppa.sweep.expand import expand_cells
from run import run_cell
from tests.conftest import CONFIGS


def call(monkeypatch, command, *words):
    monkeypatch.setattr(sys, "argv", [command.__name__, *words])
    return command.main()


@pytest.mark.slow
def test_the_printed_command_trains_the_experts_which_are_then_merged(tmp_path, monkeypatch, capsys):
    words = [
        "suite=mini",
        "task=mini/digits,mini/spots",
        "backbone=test_vit",
        "method=bitfit",
        "seed=0",
        "train.epochs=1",
        "train.epoch_images=64",
        f"run.results={tmp_path / 'results'}",
        f"data.cache={tmp_path / 'cache'}",
    ]
    merges = ["merge=ties,regmean,frozen", "scales=[0.5,1.0]", "num_tasks=1,2"]
    assert call(monkeypatch, merge, *merges, *words) == 1
    message = capsys.readouterr().err
    assert message.startswith(
        "error: 4 of 4 experts are missing, as test_vit bitfit digits seed 0 tune; train them with `"
    )
    program, script, *overrides = shlex.split(message.split("`")[1])
    assert (program, script) == ("python", "run.py")
    for config in expand_cells(CONFIGS, overrides):
        run_cell(OmegaConf.create(config))
    assert call(monkeypatch, merge, *merges, *words) == 0
    paths = capsys.readouterr().out.splitlines()[-6:]
    records = [json.loads(Path(path).read_text()) for path in paths]
    assert sorted((record["algorithm"], len(record["tasks"])) for record in records) == [
        (name, count) for name in ("frozen", "regmean", "ties") for count in (1, 2)
    ]
    assert call(monkeypatch, merge, *merges, *words) == 0
    assert capsys.readouterr().out.splitlines() == [f"done already: {path}" for path in paths]
    assert call(monkeypatch, table, str(tmp_path / "results"), "--quiet") == 0
    assert "merge-mini-test_vit-fitted-heads.md" in capsys.readouterr().out
