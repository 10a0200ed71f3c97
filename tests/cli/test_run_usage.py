"""A named sweep is a multirun by its own config."""

import os

import pytest

from moppa.cli import run


@pytest.mark.parametrize("words", [["+sweep=mini"], ["-m", "+sweep=mini"]])
def test_a_sweep_needs_no_m_and_its_cells_are_counted(words, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run.py", *words, "run.threads=1", "seed=0,1"])
    monkeypatch.setenv(run.NUM_CELLS, "")
    monkeypatch.setattr(run, "start_hydra", lambda folders: 0)
    assert run.main() == 0
    assert os.environ[run.NUM_CELLS] == "120"  # 6 methods, 10 tasks, 2 seeds
