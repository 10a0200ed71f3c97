"""Errors of a command end in one line."""

import pytest

from moppa.utils.config import UnexpectedError, one_line_errors
from moppa.utils.errors import UserError
from tests.python_process import run_python


def raise_cuda_error():
    raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported elsewhere")


def test_an_unexpected_error_ends_in_one_line_and_keeps_its_traceback_in_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnexpectedError) as raised, one_line_errors():
        raise_cuda_error()
    [file] = (tmp_path / "outputs" / "errors").iterdir()
    assert str(raised.value) == (
        f"error: RuntimeError: CUDA error: device-side assert triggered (traceback in {file.relative_to(tmp_path)})"
    )
    assert "in raise_cuda_error" in file.read_text()


def test_the_traceback_of_a_cell_is_in_the_file_of_its_failure(toy, tmp_path):
    program = """
import sys
import run
from moppa.cli.run import main
sys.argv = ["run.py", *sys.argv[1:]]
run.save_trained = lambda *_: [][1]
sys.exit(main())
"""
    done = run_python("-c", program, *toy, "method=linear", "train.epochs=1")
    assert done.returncode == 1, done.stderr
    [failure] = (tmp_path / "results").rglob("*.failed")
    *_, line = done.stderr.splitlines()
    assert line == f"error: IndexError: list index out of range (traceback in {failure})"
    assert "Traceback" not in done.stderr
    assert "HYDRA_FULL_ERROR" not in done.stderr


def test_an_error_of_the_user_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=r"^error: rank=0$"), one_line_errors():
        raise UserError("rank=0")
    assert list(tmp_path.iterdir()) == []
