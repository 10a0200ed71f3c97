"""Workers that are killed at random and a disk that fills up: in the end every cell has the record it would have."""

import json
import multiprocessing
import random
import re
import subprocess
import time

import pytest

from moppa.record.schema import read_record, without_entries
from moppa.record.write import MEASURED
from tests.conftest import TOY
from tests.worker import work

METHODS = ("linear", "lora", "moppa", "adapter", "bitfit")
SEEDS = range(8)
NUM_WORKERS, NUM_KILLS = 4, 60
processes = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def preloaded():
    processes.set_forkserver_preload(["run", "tests.worker"])


def cells(results, cache, methods=METHODS, seeds=SEEDS):
    common = [*TOY, f"run.results={results}", f"data.cache={cache}", "run.checkpoint_epochs=1", "logger=none"]
    return [[*common, f"method={method}", f"seed={seed}"] for seed in seeds for method in methods]


def start(overrides, log):
    process = processes.Process(target=work, args=(overrides, str(log)))
    process.start()
    return process


def read_outcomes(results):
    """Returns each record without its measured fields, and its predictions, by path."""
    outcomes = {}
    for path in sorted(results.rglob("seed*.json")):
        record = read_record(path)
        record["config"].pop("run")
        text = json.dumps(without_entries(record, MEASURED), sort_keys=True)
        outcomes[path.relative_to(results)] = (text, path.with_suffix(".npz").read_bytes())
    return outcomes


def leftovers(results):
    """Returns every file that is neither a record, nor its predictions, nor the trained tensors."""
    return [
        path for path in results.rglob("*") if path.is_file() and path.suffix not in {".json", ".npz", ".safetensors"}
    ]


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory):
    """The outcomes of the same cells in one worker that nobody kills."""
    results = tmp_path_factory.mktemp("undisturbed")
    process = start(cells(results, cache), results.parent / "undisturbed.log")
    process.join()
    assert process.exitcode == 0
    return read_outcomes(results)


@pytest.mark.slow
def test_forty_cells_survive_sixty_kills(undisturbed, cache, tmp_path, capsys):
    results, chance = tmp_path / "results", random.Random(0)
    overrides = cells(results, cache)
    assert len(undisturbed) == len(overrides) == 40

    def new_worker(number):
        order = overrides[number * 10 :] + overrides[: number * 10]  # the workers meet at one another's cells
        return start(order, tmp_path / f"{number}.log")

    workers = [new_worker(number) for number in range(NUM_WORKERS)]
    num_started, num_kills = NUM_WORKERS, 0
    while num_kills < NUM_KILLS:
        time.sleep(chance.uniform(0.1, 1.2))
        number = chance.randrange(NUM_WORKERS)
        if workers[number].is_alive():
            workers[number].kill()
            num_kills += 1
        workers[number].join()
        workers[number] = new_worker(number)
        num_started += 1
    num_done_at_last_kill = len(list(results.rglob("seed*.json")))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    last = start(overrides, tmp_path / "last.log")  # for cells that were leased when the last worker came to them
    last.join()

    output = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    outcomes = read_outcomes(results)
    with capsys.disabled():
        print(
            f"\n{len(overrides)} cells, {NUM_WORKERS} workers, {num_kills} SIGKILLs, {num_started} workers started; "
            f"{num_done_at_last_kill} records at the last kill, {len(outcomes)} at the end; "
            f"{output.count('resuming at step')} trainings resumed, {output.count('is running elsewhere')} cells "
            f"skipped because they were running elsewhere, {output.count('error:')} errors, "
            f"{len(leftovers(results))} files left over"
        )
    assert outcomes == undisturbed
    assert leftovers(results) == []
    assert "error:" not in output
    assert output.count("resuming at step") > 0


@pytest.mark.slow
def test_a_full_disk_loses_no_record_and_the_sweep_completes_once_there_is_room(undisturbed, cache, tmp_path, capsys):
    results = tmp_path / "small"
    results.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(results)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not allow mounting a small file system")
    try:
        overrides = cells(results, cache, seeds=range(3))
        log = tmp_path / "small.log"
        first = start(overrides, log)
        first.join()
        kept = read_outcomes(results)
        output = log.read_text()
        assert first.exitcode == 0
        assert 0 < len(kept) < len(overrides)
        errors = re.findall(r"^error: .*", output, re.MULTILINE)
        assert len(errors) == len(overrides) - len(kept)
        assert all("No space left on device; make room there" in error for error in errors), errors
        assert not [path for path in leftovers(results) if path.suffix not in {".failed", ".pt"}]
        assert kept.items() <= undisturbed.items()

        subprocess.run(["mount", "-o", "remount,size=64m", str(results)], check=True)
        second = start(overrides, log)
        second.join()
        outcomes = read_outcomes(results)
        with capsys.disabled():
            print(f"\n{len(overrides)} cells, {len(kept)} records on the full disk, {len(outcomes)} with room")
        assert len(outcomes) == len(overrides)
        assert outcomes.items() <= undisturbed.items()
        assert leftovers(results) == []
    finally:
        subprocess.run(["umount", str(results)], check=True)
