"""Each launcher runs a sweep for real, in processes of its own; SLURM as far as a machine without it can tell."""

import json
import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from moppa import record
from tests.conftest import CONFIGS, ROOT, TOY

PRESETS = sorted(path.stem for path in (CONFIGS / "hydra" / "launcher").glob("*.yaml"))
CELLS = ["method=linear,lora", "seed=0,1", "protocol=tune"]

EXISTING = ["hydra.launcher.ray.init.address='127.0.0.1:6399'", "+hydra.launcher.ray.init.object_store_memory=null"]


def sweep(folder, *words, cells=CELLS, check=True):
    """Runs a sweep of the toy task and gives what it said."""
    places = [
        f"run.results={folder / 'results'}",
        f"data.store={folder / 'store'}",
        f"hydra.sweep.dir={folder / 'sweep'}",
    ]
    # nothing of the tests' own may divide the threads
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "run.py", "-m", *TOY, *places, *cells, *words],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), "RAY_DISABLE_IMPORT_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def records_of(folder):
    found = {}
    for path in sorted((folder / "results" / "records").rglob("seed*.json")):
        written = record.read(path)
        assert written["config"].pop("run")["results"] == str(folder / "results")
        found[path.relative_to(folder)] = written
    return found


def comparable(records):
    """What must be equal: all but what is measured and the paths of this test's own folder."""
    texts = {}
    for path, written in records.items():
        kept = json.loads(json.dumps(record.without(written, (*record.MEASURED, "config.data.store"))))
        texts[path] = kept
    return texts


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """The sweep in one process, by Hydra's own launcher."""
    folder = tmp_path_factory.mktemp("basic")
    sweep(folder, "run.threads=1")
    return comparable(records_of(folder))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_composes_with_threads_divided(preset, monkeypatch):
    pytest.importorskip("hydra_plugins")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("cell", overrides=["task=dtd", f"hydra/launcher={preset}"], return_hydra_config=True)
    for name, value in config.hydra.job.env_set.items():
        monkeypatch.setenv(name, value)
    assert config.run.threads >= 1
    assert config.run.device == config.hydra.job.env_set.get("MOPPA_DEVICE", "auto")
    assert config.hydra.launcher._target_.startswith("hydra_plugins.")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["hydra/launcher=cpu", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_cpu"],
        ["hydra/launcher=ray_cpu", "+hydra.launcher.ray.init.num_cpus=2"],
    ],
    ids=lambda words: words[0].partition("=")[2],
)
def test_a_launcher_leaves_the_records_of_one_process(words, one_by_one, tmp_path):
    sweep(tmp_path, *words)
    found = records_of(tmp_path)
    assert {one["device"]["threads"] for one in found.values()} == {1}
    assert comparable(found) == one_by_one
    assert not [
        path for path in (tmp_path / "results").rglob("*") if path.suffix in {".claim", ".failed", ".tmp", ".pt"}
    ]


@pytest.mark.slow
def test_a_ray_cluster_that_runs_already_is_used(one_by_one, tmp_path):
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    head = ["start", "--head", "--port=6399", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    started = subprocess.run([*ray, *head], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        sweep(
            tmp_path,
            "hydra/launcher=ray_cpu",
            *EXISTING,
        )
    finally:
        subprocess.run([*ray, "stop"], env=environment, capture_output=True)
    assert comparable(records_of(tmp_path)) == one_by_one


@pytest.mark.slow
def test_a_failed_cell_does_not_end_the_sweep(tmp_path):
    done = sweep(tmp_path, "run.threads=1", cells=["method=lora", "method.attach.rank=4,65,8"], check=False)
    assert done.returncode == 1
    assert "error: method.attach.rank=65" in done.stderr
    assert sorted(one["config"]["method"]["attach"]["rank"] for one in records_of(tmp_path).values()) == [4, 8]
    [failure] = (tmp_path / "results").rglob("*.failed")
    assert "method.attach.rank=65" in json.loads(failure.read_text())["error"]
