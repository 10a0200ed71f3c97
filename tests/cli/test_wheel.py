"""A wheel, installed outside of any checkout: `moppa.attach`, and the command with configs and methods inside."""

import json
import os
import subprocess
import sys
import sysconfig
import venv

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
CELL = ["task=mini/digits", "backbone=vit_micro", "train=mini", "train.epochs=1"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Builds the wheel and installs it into a fresh environment that borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("moppa-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    [site] = (folder / "venv" / "lib").glob("python*/site-packages")
    # A directory in a .pth file is searched, but its own .pth files, such as that of an editable install, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def run(installed, work):
    """Runs a program of the environment in an empty working directory, and returns its output."""

    def run(program, *words, status=0):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(installed / "venv" / "bin" / program), *words],
            cwd=work,
            env={**environment, "COLUMNS": "160"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_moppa_attaches_to_a_timm_model(run, installed):
    program = """
import timm, moppa
model = moppa.attach(timm.create_model("test_vit", num_classes=10))
print(moppa.__file__, sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad) > 0)
"""
    assert run("python", "-c", program).startswith(f"{installed}/venv/lib/")


def test_the_wheel_adds_no_other_top_level_package(run):
    program = (
        "from importlib.util import find_spec; print([find_spec(n) for n in ('baselines', 'run', 'configs', 'tests')])"
    )
    assert run("python", "-c", program) == "[None, None, None, None]\n"


def test_cells_run_and_reports_are_written_to_the_working_directory(run, work):
    assert "usage: moppa COMMAND" in run("moppa")
    printed = run("moppa", "run", "-m", "method=linear,lora", *CELL)
    assert printed.count(" correct, ") == 2
    records = sorted((work / "results" / "records").rglob("seed0.json"))
    assert [json.loads(path.read_text())["method"] for path in records] == ["linear", "lora"]
    assert all(json.loads(path.read_text())["git"] == {"commit": None, "dirty": None} for path in records)
    assert "2 done" in " ".join(run("moppa", "sweep", "plan", "method=linear,lora", *CELL).split())
    assert "lora" in run("moppa", "sweep", "status", "--once")
    assert "already" in run("moppa", "run", "method=lora", *CELL)
    for command, file in {
        "table": "tables/mini-vit_micro-final.md",
        "compare": "tables/mini-vit_micro-final-compare.md",
        "figures": "figures",
        "report": "report/index.html",
    }.items():
        run("moppa", command)
        assert (work / "results" / file).exists(), command


def test_retry_starts_workers_from_the_wheel(run, work):
    run("moppa", "sweep", "retry", "method=linear", *CELL, "seed=1")
    assert list((work / "results" / "records").rglob("seed1.json"))


def test_docs_are_rewritten_in_a_checkout_only(run):
    assert "installed package" in run("moppa", "docs", status=1)
