"""Every launcher runs a real sweep in its own processes; SLURM is replaced by submitit's mock."""

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

from moppa.record.schema import read_record, without_entries
from moppa.record.write import MEASURED
from moppa.utils.signals import EXIT_REQUEUE
from run import run_cell
from tests.conftest import CONFIGS, ROOT, TOY, config_of

PRESETS = sorted(path.stem for path in (CONFIGS / "hydra" / "launcher").glob("*.yaml"))
CELLS = ["method=linear,lora", "seed=0,1", "protocol=tune"]


def sweep(folder, *overrides, cells=CELLS, check=True):
    """Runs a sweep of the toy task and returns the finished process."""
    settings = {
        "run.results": folder / "results",
        "data.cache": folder / "cache",
        "hydra.sweep.dir": folder / "sweep",
    }
    settings |= dict(override.split("=", 1) for override in overrides)
    # the number of threads must come from the launcher, not from the tests' environment
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "run.py", "-m", *TOY, *cells, *(f"{name}={value}" for name, value in settings.items())],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def read_records(folder):
    records = {}
    for path in sorted((folder / "results" / "records").rglob("seed*.json")):
        record = read_record(path)
        assert Path(record["config"].pop("run")["results"]).resolve() == folder / "results"
        records[path.relative_to(folder)] = record
    return records


def comparable(records):
    """Returns the records without what may differ: measurements, and the path of this test's cache."""
    return {path: without_entries(record, (*MEASURED, "config.data.cache")) for path, record in records.items()}


@pytest.fixture
def launchers():
    """Skips a test if the `sweep` extra is not installed."""
    for name in ("joblib", "submitit", "ray"):
        pytest.importorskip(
            f"hydra_plugins.hydra_{name}_launcher", reason=f"needs the {name} launcher: pip install 'moppa[sweep]'"
        )


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """The records of the same sweep in one process, by Hydra's basic launcher."""
    folder = tmp_path_factory.mktemp("basic")
    sweep(folder, "run.threads=1")
    return comparable(read_records(folder))


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
    "overrides",
    [
        ["hydra/launcher=cpu", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_cpu"],
        ["hydra/launcher=ray_cpu", "+hydra.launcher.ray.init.num_cpus=2"],
    ],
    ids=lambda overrides: overrides[0].partition("=")[2],
)
def test_a_launcher_writes_the_same_records_as_one_process(overrides, one_by_one, tmp_path):
    sweep(tmp_path, *overrides)
    records = read_records(tmp_path)
    assert {record["device"]["threads"] for record in records.values()} == {1}
    assert comparable(records) == one_by_one
    assert not [
        path for path in (tmp_path / "results").rglob("*") if path.suffix in {".lease", ".failed", ".tmp", ".pt"}
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("launchers")
def test_a_running_ray_cluster_is_used(one_by_one, tmp_path):
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    head = ["start", "--head", "--port=6399", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    started = subprocess.run([*ray, *head], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert started.returncode == 0, started.stdout + started.stderr
    resources = ["hydra.launcher.ray.remote={num_cpus: 1}", "hydra.launcher.ray.remote.num_gpus=0", "run.threads=1"]
    address = "hydra.launcher.ray.init.address='127.0.0.1:6399'"
    try:
        done = sweep(tmp_path, "hydra/launcher=ray_cluster", address, *resources)
    finally:
        subprocess.run([*ray, "stop"], env=environment, capture_output=True)
    assert re.search(r"Connecting to existing Ray cluster at address: \S+:6399", done.stderr)
    assert comparable(read_records(tmp_path)) == one_by_one


@pytest.mark.slow
@pytest.mark.usefixtures("launchers")
def test_the_slurm_preset_requests_its_resources_and_its_job_runs_a_cell(toy, tmp_path):
    """With submitit's mock of SLURM: the script that sbatch would get, and the job that it would start."""
    import submitit
    from submitit.core import submission
    from submitit.slurm.test_slurm import mocked_slurm

    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("cell", overrides=["task=dtd", "hydra/launcher=slurm"], return_hydra_config=True)
    launcher = config.hydra.launcher
    resources = {name: launcher[name] for name in ("timeout_min", "gpus_per_node", "cpus_per_task", "mem_gb")}
    slurm = {f"slurm_{name}": launcher[name] for name in ("signal_delay_s", "array_parallelism")}
    retries = launcher.max_num_timeout
    with mocked_slurm() as mock:
        executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="slurm", slurm_max_num_timeout=retries)
        executor.update_parameters(**resources, **slurm)
        job = executor.submit(run_cell, config_of(*toy, "method=linear"))
        script = job.paths.submission_file.read_text()
        for line in ("--gpus-per-node=1", "--cpus-per-task=4", "--mem=32GB", "--time=240", "--signal=USR2@120"):
            assert f"#SBATCH {line}\n" in script
        with mock.job_context(job.job_id):
            submission.process_job(job.paths.folder)
        assert job.result().is_done


@pytest.mark.slow
@pytest.mark.usefixtures("launchers")
def test_two_workers_take_at_most_sixty_percent_of_the_time_of_one(tmp_path, capsys):
    """Eight equal cells with one thread each. A worker's start-up limits the gain."""
    num_cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    if num_cores < 2 or load > 1:  # the start of the tests counts too
        pytest.skip(f"needs two idle cores to measure; this machine has {num_cores}, at a load of {load:.1f}")
    cells = ["method=lora", "seed=0,1,2,3,4,5,6,7", "train.epochs=120"]  # long compared with a worker's start-up
    sweep(tmp_path, cells=["method=linear", "seed=0"])  # prepares the images
    seconds = {}
    for workers in (1, 2):
        began = time.perf_counter()
        results = f"run.results={tmp_path / f'results{workers}'}"
        sweep(tmp_path, "hydra/launcher=cpu", f"hydra.launcher.n_jobs={workers}", results, cells=cells)
        seconds[workers] = time.perf_counter() - began
    with capsys.disabled():
        print(f"\none worker {seconds[1]:.1f} s, two {seconds[2]:.1f} s: {seconds[2] / seconds[1]:.2f}")
    assert seconds[2] <= 0.6 * seconds[1]


@pytest.mark.slow
def test_sigterm_ends_a_sweep_with_a_checkpoint_and_the_requeue_status(tmp_path):
    overrides = [*TOY, f"run.results={tmp_path / 'results'}", f"data.cache={tmp_path / 'cache'}"]
    overrides += [
        "run.checkpoint_epochs=1",
        "method=lora",
        "seed=0,1",
        "train.epochs=200",
        "run.threads=1",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    sweeping = subprocess.Popen(
        [sys.executable, "run.py", "-m", *overrides], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.rglob("seed0.pt")):
        assert sweeping.poll() is None
        time.sleep(0.05)
    sweeping.send_signal(signal.SIGTERM)
    _, err = sweeping.communicate()
    assert sweeping.returncode == EXIT_REQUEUE
    assert "the same command resumes there" in err
    assert [path.name for path in (tmp_path / "results").rglob("*") if path.is_file()] == ["seed0.pt"]


@pytest.mark.slow
def test_a_failed_cell_does_not_stop_the_sweep(tmp_path):
    done = sweep(tmp_path, "run.threads=1", cells=["method=lora", "method.attach.rank=4,65,8"], check=False)
    assert done.returncode == 1
    assert "error: method.attach.rank=65" in done.stderr
    ranks = [record["config"]["method"]["attach"]["rank"] for record in read_records(tmp_path).values()]
    assert sorted(ranks) == [4, 8]
    [failure] = (tmp_path / "results").rglob("*.failed")
    assert "method.attach.rank=65" in json.loads(failure.read_text())["error"]
