"""Workers that are killed at random, and a disk that fills up: at the end every cell has the record it would have."""

import json
import multiprocessing
import random
import subprocess
import time

import pytest

from moppa.record.cell import MEASURED
from moppa.record.schema import read_record, without_entries
from tests.conftest import TOY
from tests.worker import work

METHODS = ("linear", "lora", "moppa", "adapter", "bitfit")
SEEDS = range(8)
NUM_WORKERS, NUM_KILLS = 4, 60
processes = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module", autouse=True)
def preloaded():
    processes.set_forkserver_preload(["run", "tests.worker"])


def cells(results, store, methods=METHODS, seeds=SEEDS):
    common = [*TOY, f"run.results={results}", f"data.cache={store}", "run.checkpoint_epochs=1", "logger=none"]
    return [[*common, f"method={method}", f"seed={seed}"] for seed in seeds for method in methods]


def start(asked, log):
    process = processes.Process(target=work, args=(asked, str(log)))
    process.start()
    return process


def records_of(results):
    found = {}
    for path in sorted(results.rglob("seed*.json")):
        written = read_record(path)
        written["config"].pop("run")
        text = json.dumps(without_entries(written, MEASURED), sort_keys=True)
        found[path.relative_to(results)] = (text, path.with_suffix(".npz").read_bytes())
    return found


def leftovers(results):
    """Every file that is neither a record, nor its predictions, nor the trained tensors."""
    return [
        path for path in results.rglob("*") if path.is_file() and path.suffix not in {".json", ".npz", ".safetensors"}
    ]


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    results = tmp_path_factory.mktemp("undisturbed")
    process = start(cells(results, store), results.parent / "undisturbed.log")
    process.join()
    assert process.exitcode == 0
    return records_of(results)


@pytest.mark.slow
def test_forty_cells_survive_sixty_kills(undisturbed, store, tmp_path, capsys):
    results, chance = tmp_path / "results", random.Random(0)
    asked = cells(results, store)
    assert len(undisturbed) == len(asked) == 40

    def new_worker(number):
        order = asked[number * 10 :] + asked[: number * 10]  # they meet at one another's cells
        return start(order, tmp_path / f"{number}.log")

    workers = [new_worker(number) for number in range(NUM_WORKERS)]
    started, kills = NUM_WORKERS, 0
    while kills < NUM_KILLS:
        time.sleep(chance.uniform(0.1, 1.2))
        number = chance.randrange(NUM_WORKERS)
        if workers[number].is_alive():
            workers[number].kill()
            kills += 1
        workers[number].join()
        workers[number] = new_worker(number)
        started += 1
    done_at_last_kill = len(list(results.rglob("seed*.json")))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    last = start(asked, tmp_path / "last.log")  # what was another's when the last worker came by
    last.join()

    said = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    found = records_of(results)
    with capsys.disabled():
        print(
            f"\n{len(asked)} cells, {NUM_WORKERS} workers, {kills} SIGKILLs, {started} workers started; "
            f"{done_at_last_kill} records at the last kill, {len(found)} at the end; "
            f"{said.count('resuming at step')} trainings resumed, {said.count('is at work elsewhere')} cells found at "
            f"work elsewhere, {said.count('error:')} errors, {len(leftovers(results))} files left over"
        )
    assert found == undisturbed
    assert leftovers(results) == []
    assert "error:" not in said
    assert said.count("resuming at step") > 0


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing_and_the_sweep_goes_on_once_there_is_room(
    undisturbed, store, tmp_path, capsys
):
    results = tmp_path / "small"
    results.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(results)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets us mount no small file system")
    try:
        asked = cells(results, store, seeds=range(3))
        log = tmp_path / "small.log"
        first = start(asked, log)
        first.join()
        kept = records_of(results)
        said = log.read_text()
        assert first.exitcode == 0
        assert 0 < len(kept) < len(asked)
        assert said.count("No space left on device; make room there") == len(asked) - len(kept)
        assert not [path for path in leftovers(results) if path.suffix not in {".failed", ".pt"}]
        assert kept.items() <= undisturbed.items()

        subprocess.run(["mount", "-o", "remount,size=64m", str(results)], check=True)
        second = start(asked, log)
        second.join()
        found = records_of(results)
        with capsys.disabled():
            print(f"\n{len(asked)} cells, {len(kept)} records when the disk was full, {len(found)} after room was made")
        assert len(found) == len(asked)
        assert found.items() <= undisturbed.items()
        assert leftovers(results) == []
    finally:
        subprocess.run(["umount", str(results)], check=True)
