"""The main job as a user starts it: real EuroSAT images, a real pretrained ViT, a separate process."""

import json
import signal
import subprocess
import sys
import time

import pytest

from moppa.record.schema import read_record, without_entries
from moppa.record.write import MEASURED
from tests.conftest import ROOT

EPOCHS = 3


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def command(shared, cache, results, *, method="lora", image_size=14, epochs=EPOCHS):
    return [
        sys.executable,
        "run.py",
        "task=eurosat",
        f"method={method}",
        "backbone=dinov2_vits14",
        f"backbone.image_size={image_size}",
        f"backbone.weights={shared / 'weights' / 'dinov2_vits14_fp16.safetensors'}",
        f"data.dir={shared / 'tfds'}",
        f"data.cache={cache}",
        f"train.epochs={epochs}",
        "run.checkpoint_epochs=1",
        f"run.results={results}",
    ]


def run(*args, **kwargs):
    return subprocess.run(command(*args, **kwargs), cwd=ROOT, capture_output=True, text=True, check=True)


def record_of(results, seed=0):
    [path] = results.rglob(f"seed{seed}.json")
    record = read_record(path)
    record["config"].pop("run")
    return record, path.with_suffix(".npz").read_bytes()


@pytest.fixture(scope="module")
def finished(shared, cache, tmp_path_factory):
    """The results of a run without interruption."""
    results = tmp_path_factory.mktemp("finished")
    run(shared, cache, results)
    return results


def test_the_split_is_official_and_the_model_learns(finished):
    record, _ = record_of(finished)
    assert record["split"]["verdict"] == "official"
    assert (record["split"]["num_train"], record["total"]) == (1000, 5400)
    assert record["trainable_params"] == 147456
    assert record["correct"] / record["total"] > 0.4  # 0.1 is chance
    assert record["curve"][-1]["loss"] < record["curve"][0]["loss"]
    assert all(seconds > 0 for seconds in record["seconds"].values())


def test_a_finished_run_is_skipped_in_under_15_seconds(shared, cache, finished):
    started = time.perf_counter()
    done = run(shared, cache, finished)
    assert time.perf_counter() - started < 15
    [line] = done.stdout.splitlines()
    assert line.startswith("done already: ")


def test_a_killed_run_resumes_to_the_same_record(shared, cache, finished, tmp_path):
    process = subprocess.Popen(command(shared, cache, tmp_path), cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.rglob("seed0.pt")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.rglob("seed0.json"))
    resumed = run(shared, cache, tmp_path)
    assert "resuming at step" in resumed.stdout
    (first, predicted), (second, predicted_again) = record_of(finished), record_of(tmp_path)
    assert json.dumps(without_entries(first, MEASURED)) == json.dumps(without_entries(second, MEASURED))
    assert predicted == predicted_again
    assert not list(tmp_path.rglob("*.pt"))


def test_ctrl_c_leaves_a_checkpoint_and_no_record(shared, cache, tmp_path):
    process = subprocess.Popen(
        command(shared, cache, tmp_path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: list(tmp_path.rglob("seed0.pt")), process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "the same command resumes there" in stderr
    assert "Traceback" not in stderr
    assert len(list(tmp_path.rglob("seed0.pt"))) == 1
    assert not list(tmp_path.rglob("seed0.json"))
    assert not list(tmp_path.rglob("*.tmp"))


def wait_for(condition, process, seconds=120):
    """Waits until a running process has made a condition true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before the condition was true"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_methods_are_clearly_above_the_linear_probe(shared, cache, tmp_path):
    """EuroSAT at 56 px and 10 epochs takes minutes."""
    for method in ("linear", "lora", "moppa"):
        run(shared, cache, tmp_path, method=method, image_size=56, epochs=10)
    accuracy = {}
    for path in tmp_path.rglob("seed0.json"):
        record = read_record(path)
        accuracy[record["method"]] = record["correct"] / record["total"]
    assert min(accuracy["lora"], accuracy["moppa"]) > accuracy["linear"] + 0.05
