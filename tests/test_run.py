"""The main job as a user starts it: a separate process, with real EuroSAT images and a real pretrained ViT."""

import json
import signal
import time

import pytest

from moppa.record.schema import read_record, without_entries
from moppa.record.write import MEASURED
from tests.conftest import TOY
from tests.python_process import PythonProcess, run_python

EPOCHS = 2


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def eurosat(shared, cache, results, *, method="lora", image_size=14, epochs=EPOCHS):
    return [
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


def run(command):
    done = run_python(*command)
    assert done.returncode == 0, done.stderr
    return done


def record_of(results, seed=0):
    [path] = results.rglob(f"seed{seed}.json")
    record = read_record(path)
    record["config"].pop("run")
    return record, path.with_suffix(".npz").read_bytes()


@pytest.fixture(scope="module")
def finished(shared, cache, tmp_path_factory):
    """The results of a run without interruption."""
    results = tmp_path_factory.mktemp("finished")
    run(eurosat(shared, cache, results))
    return results


def test_the_split_is_official_and_the_model_learns(finished):
    record, _ = record_of(finished)
    assert record["split"]["verdict"] == "official"
    assert (record["split"]["num_train"], record["total"]) == (1000, 5400)
    assert record["trainable_params"] == 147456
    assert record["correct"] / record["total"] > 0.3  # 0.1 is chance
    assert record["curve"][-1]["loss"] < record["curve"][0]["loss"]
    assert all(seconds > 0 for seconds in record["seconds"].values())


def test_a_finished_run_is_skipped_without_images(shared, finished, tmp_path):
    done = run([*eurosat(shared, tmp_path, finished), f"data.dir={tmp_path}"])
    [line] = done.stdout.splitlines()
    assert line.startswith("done already: ")


def test_a_killed_and_an_interrupted_run_resume_to_the_same_record(tmp_path):
    overrides = [*TOY, "method=lora", "train.epochs=4", "run.checkpoint_epochs=1", f"data.cache={tmp_path / 'cache'}"]
    results = tmp_path / "resumed"
    command = ["run.py", *overrides, f"run.results={results}"]

    def checkpoints():
        return list(results.rglob("seed0.pt"))

    process = PythonProcess(*command)
    wait_for(checkpoints, process)
    process.send_signal(signal.SIGKILL)
    assert process.communicate().returncode == -signal.SIGKILL
    assert not list(results.rglob("seed0.json"))

    process = PythonProcess(*command)
    wait_for(lambda: "resuming at step" in process.printed(), process)
    process.send_signal(signal.SIGINT)
    interrupted = process.communicate()
    assert interrupted.returncode == 130
    assert "the same command resumes there" in interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    assert len(checkpoints()) == 1
    assert not list(results.rglob("seed0.json"))
    assert not list(results.rglob("*.tmp"))

    assert "resuming at step" in run(command).stdout
    run(["run.py", *overrides, f"run.results={tmp_path / 'whole'}"])
    (first, predicted), (second, predicted_again) = record_of(tmp_path / "whole"), record_of(results)
    assert json.dumps(without_entries(first, MEASURED)) == json.dumps(without_entries(second, MEASURED))
    assert predicted == predicted_again
    assert not checkpoints()


def wait_for(condition, process, seconds=120):
    """Waits until a running process has made a condition true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before the condition was true"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_methods_are_clearly_above_the_linear_probe(shared, cache, tmp_path):
    """EuroSAT at 56 px and 10 epochs takes minutes. The learning rates are about those of docs/log/eurosat.md."""
    for method, lr in {"linear": 1e-3, "lora": 5e-3, "moppa": 5e-3}.items():
        run([*eurosat(shared, cache, tmp_path, method=method, image_size=56, epochs=10), f"train.lr={lr}"])
    accuracy = {}
    for path in tmp_path.rglob("seed0.json"):
        record = read_record(path)
        accuracy[record["method"]] = record["correct"] / record["total"]
    assert min(accuracy["lora"], accuracy["moppa"]) > accuracy["linear"] + 0.05
