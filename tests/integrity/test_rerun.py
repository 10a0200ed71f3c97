"""`moppa verify --rerun` runs cells again and finds numbers that nobody's cell gives."""

import sys

import numpy as np
import pytest

from moppa.cli import verify
from moppa.record.rerun import count_noise, draw_records, has_same_code
from moppa.record.schema import read_record
from moppa.record.verify import verify_records
from run import run_cell
from tests.conftest import TOY, config_of
from tests.integrity.forgery import forge


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The record of a finished cell, which is far from perfect."""
    folder = tmp_path_factory.mktemp("finished")
    places = [f"run.results={folder / 'results'}", f"data.cache={folder / 'cache'}", "task.num_test=400"]
    return run_cell(config_of(*TOY, *places, "method=bitfit", "train.epochs=1", "run.threads=1")).record


def rerun(path, monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["moppa verify", str(path.parents[6]), "--rerun", *words, "--draw", "5"])
    status = verify.main()
    return status, capsys.readouterr().out


@pytest.mark.slow
def test_a_cell_gives_the_same_bytes_again_and_a_forged_image_is_found(record, monkeypatch, capsys):
    assert has_same_code(read_record(record))
    status, output = rerun(record, monkeypatch, capsys, "1")
    assert status == 0
    assert "cells drawn to be run again with --draw 5" in output
    assert "1 of 1 records run again" in output
    forge(record, num_images=1)
    assert verify_records(record.parents[6]).findings == []
    status, output = rerun(record, monkeypatch, capsys, "3")
    assert status == 1
    assert "gives other bytes: 1 of 400 predictions differ" in output


@pytest.mark.slow
def test_with_other_code_the_counts_may_differ_by_the_noise(record, monkeypatch, capsys):
    monkeypatch.setattr("moppa.record.rerun.has_same_code", lambda _: False)
    forge(record, num_images=2)
    assert rerun(record, monkeypatch, capsys, "1")[0] == 0
    forge(record, num_images=30)
    status, output = rerun(record, monkeypatch, capsys, "1")
    assert status == 1
    assert "more apart than the 17 that other machines and versions explain" in output


@pytest.mark.slow
def test_a_cell_that_cannot_be_run_here_is_counted(record, monkeypatch, capsys, tmp_path):
    status, output = rerun(record, monkeypatch, capsys, "1", f"backbone.weights={tmp_path / 'none.safetensors'}")
    assert status == 0
    assert "not run again: 1 record: " in output
    assert "0 of 1 records run again" in output


def test_the_noise_is_three_standard_errors_and_at_least_half_a_percent():
    first = np.zeros(1000, dtype=bool)
    second = first.copy()
    second[:100] = True
    assert count_noise(first, second) == 30
    assert count_noise(first, first) == 5


def test_the_draw_is_that_of_its_seed(tmp_path):
    paths = [tmp_path / f"{number:02}" for number in range(20)]
    draws = [draw_records(paths[::step], 4, seed) for step in (1, -1) for seed in (0, 1)]
    assert draws[0] == draws[2] != draws[1] == draws[3]
    assert draw_records(paths, 50, 0) == paths


@pytest.mark.parametrize("words", [["0"], ["all"], ["-1"], ["1.5"], ["2", "train.lr"]])
def test_a_wrong_number_is_named(words, tmp_path, monkeypatch, capsys):
    from moppa.cli.verify import rerun_some
    from moppa.utils.errors import UserError

    with pytest.raises(UserError, match=r"^--rerun (0|all|-1|1\.5): expected how many|NAME=VALUE"):
        rerun_some([], tmp_path, words, seed=0)
