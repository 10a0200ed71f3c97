"""Each launcher runs a sweep for real, in processes of its own; SLURM as far as a machine without it can tell."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from moppa.record.cell import MEASURED
from moppa.record.schema import read_record, without_entries
from moppa.utils.signals import EXIT_REQUEUE
from run import run_cell
from tests.conftest import CONFIGS, ROOT, TOY, config_of

PRESETS = sorted(path.stem for path in (CONFIGS / "hydra" / "launcher").glob("*.yaml"))
CELLS = ["method=linear,lora", "seed=0,1", "protocol=tune"]


def sweep(folder, *words, cells=CELLS, check=True):
    """Runs a sweep of the toy task and gives what it said."""
    places = [
        f"run.results={folder / 'results'}",
        f"data.cache={folder / 'store'}",
        f"hydra.sweep.dir={folder / 'sweep'}",
    ]
    # nothing of the tests' own may divide the threads
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [
            sys.executable,
            "run.py",
            "-m",
            *TOY,
            *(place for place in places if not set_again(place, words)),
            *cells,
            *words,
        ],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def set_again(word, words):
    return any(other.partition("=")[0] == word.partition("=")[0] for other in words)


def records_of(folder):
    found = {}
    for path in sorted((folder / "results" / "records").rglob("seed*.json")):
        written = read_record(path)
        assert Path(written["config"].pop("run")["results"]).resolve() == folder / "results"
        found[path.relative_to(folder)] = written
    return found


def comparable(records):
    """What must be equal: all but what is measured and the paths of this test's own folder."""
    texts = {}
    for path, written in records.items():
        kept = json.loads(json.dumps(without_entries(written, (*MEASURED, "config.data.cache"))))
        texts[path] = kept
    return texts


@pytest.fixture
def launchers():
    """Hydra's launchers, where the sweep extra brought them."""
    for name in ("joblib", "submitit", "ray"):
        pytest.importorskip(
            f"hydra_plugins.hydra_{name}_launcher", reason=f"needs the {name} launcher: pip install 'moppa[sweep]'"
        )


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """The sweep in one process, by Hydra's own launcher."""
    folder = tmp_path_factory.mktemp("basic")
    sweep(folder, "run.threads=1")
    return comparable(records_of(folder))


@pytest.mark.usefixtures("launchers")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_composes_with_threads_divided(preset, monkeypatch):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("cell", overrides=["task=dtd", f"hydra/launcher={preset}"], return_hydra_config=True)
    for name, value in config.hydra.job.env_set.items():
        monkeypatch.setenv(name, value)
    assert config.run.threads >= 1
    assert config.run.device == config.hydra.job.env_set.get("MOPPA_DEVICE", "auto")
    assert config.hydra.launcher._target_.startswith("hydra_plugins.")


@pytest.mark.slow
@pytest.mark.usefixtures("launchers")
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
@pytest.mark.usefixtures("launchers")
def test_a_ray_cluster_that_runs_already_is_used(one_by_one, tmp_path):
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    head = ["start", "--head", "--port=6399", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    started = subprocess.run([*ray, *head], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert started.returncode == 0, started.stdout + started.stderr
    there = [f"hydra.launcher.ray.{word}" for word in ("init.address='127.0.0.1:6399'", "remote={num_cpus: 1}")]
    try:
        done = sweep(
            tmp_path, "hydra/launcher=ray_cluster", *there, "hydra.launcher.ray.remote.num_gpus=0", "run.threads=1"
        )
    finally:
        subprocess.run([*ray, "stop"], env=environment, capture_output=True)
    assert re.search(r"Connecting to existing Ray cluster at address: \S+:6399", done.stderr)
    assert comparable(records_of(tmp_path)) == one_by_one


@pytest.mark.slow
@pytest.mark.usefixtures("launchers")
def test_the_slurm_preset_asks_for_what_it_says_and_its_job_runs_a_cell(toy, tmp_path):
    """By submitit's own stand-in for SLURM: the script that sbatch would get, and the job that it would start."""
    import submitit
    from submitit.core import submission
    from submitit.slurm.test_slurm import mocked_slurm

    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("cell", overrides=["task=dtd", "hydra/launcher=slurm"], return_hydra_config=True)
    asked = {name: config.hydra.launcher[name] for name in ("timeout_min", "gpus_per_node", "cpus_per_task", "mem_gb")}
    own = {f"slurm_{name}": config.hydra.launcher[name] for name in ("signal_delay_s", "array_parallelism")}
    retries = config.hydra.launcher.max_num_timeout
    with mocked_slurm() as mock:
        executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="slurm", slurm_max_num_timeout=retries)
        executor.update_parameters(**asked, **own)
        job = executor.submit(run_cell, config_of(*toy, "method=linear"))
        script = job.paths.submission_file.read_text()
        for line in ("--gpus-per-node=1", "--cpus-per-task=4", "--mem=32GB", "--time=240", "--signal=USR2@120"):
            assert f"#SBATCH {line}\n" in script
        with mock.job_context(job.job_id):
            submission.process_job(job.paths.folder)
        assert job.result().is_done


@pytest.mark.slow
@pytest.mark.usefixtures("launchers")
def test_two_workers_take_at_most_sixty_percent_of_ones_time(tmp_path, capsys):
    """Eight equal cells, each with one thread: one worker against two. What limits it: a worker's start."""
    cores, busy = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    if cores < 2 or busy > 1:  # the start of the tests counts, too
        pytest.skip(f"needs two idle cores to measure; this machine has {cores}, at a load of {busy:.1f}")
    cells = ["method=lora", "seed=0,1,2,3,4,5,6,7", "train.epochs=120"]  # long beside a start
    sweep(tmp_path, cells=["method=linear", "seed=0"])  # the store is made once
    seconds = {}
    for workers in (1, 2):
        began = time.perf_counter()
        place = f"run.results={tmp_path / f'results{workers}'}"
        sweep(tmp_path, "hydra/launcher=cpu", f"hydra.launcher.n_jobs={workers}", place, cells=cells)
        seconds[workers] = time.perf_counter() - began
    with capsys.disabled():
        print(f"\none worker {seconds[1]:.1f} s, two {seconds[2]:.1f} s: {seconds[2] / seconds[1]:.2f}")
    assert seconds[2] <= 0.6 * seconds[1]


@pytest.mark.slow
def test_sigterm_ends_a_sweep_with_a_checkpoint_and_the_status_for_a_requeue(tmp_path):
    words = [*TOY, f"run.results={tmp_path / 'results'}", f"data.cache={tmp_path / 'store'}", "run.checkpoint_epochs=1"]
    words += ["method=lora", "seed=0,1", "train.epochs=200", "run.threads=1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    sweeping = subprocess.Popen(
        [sys.executable, "run.py", "-m", *words], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.rglob("seed0.pt")):
        assert sweeping.poll() is None
        time.sleep(0.05)
    sweeping.send_signal(signal.SIGTERM)
    _, said = sweeping.communicate()
    assert sweeping.returncode == EXIT_REQUEUE
    assert "the same command goes on from there" in said
    assert [path.name for path in (tmp_path / "results").rglob("*") if path.is_file()] == ["seed0.pt"]


@pytest.mark.slow
def test_a_failed_cell_does_not_end_the_sweep(tmp_path):
    done = sweep(tmp_path, "run.threads=1", cells=["method=lora", "method.attach.rank=4,65,8"], check=False)
    assert done.returncode == 1
    assert "error: method.attach.rank=65" in done.stderr
    assert sorted(one["config"]["method"]["attach"]["rank"] for one in records_of(tmp_path).values()) == [4, 8]
    [failure] = (tmp_path / "results").rglob("*.failed")
    assert "method.attach.rank=65" in json.loads(failure.read_text())["error"]
