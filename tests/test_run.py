"""The main job as a user starts it: real EuroSAT images, a real pretrained ViT, a process of its own."""

import json
import signal
import subprocess
import sys
import time

import pytest

from moppa.record.cell import MEASURED
from moppa.record.schema import read_record, without_entries
from tests.conftest import ROOT

EPOCHS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def command(shared, store, results, *, method="lora", image_size=14, epochs=EPOCHS):
    return [
        sys.executable,
        "run.py",
        "task=eurosat",
        f"method={method}",
        "backbone=dinov2_vits14",
        f"backbone.image_size={image_size}",
        f"backbone.weights={shared / 'weights' / 'dinov2_vits14_fp16.safetensors'}",
        f"data.dir={shared / 'tfds'}",
        f"data.cache={store}",
        f"train.epochs={epochs}",
        "run.checkpoint_epochs=1",
        f"run.results={results}",
    ]


def run(*words, **settings):
    return subprocess.run(command(*words, **settings), cwd=ROOT, capture_output=True, text=True, check=True)


def record_of(results, seed=0):
    [path] = results.rglob(f"seed{seed}.json")
    written = read_record(path)
    written["config"].pop("run")
    return written, path.with_suffix(".npz").read_bytes()


@pytest.fixture(scope="module")
def whole(shared, store, tmp_path_factory):
    """The undisturbed run."""
    results = tmp_path_factory.mktemp("whole")
    run(shared, store, results)
    return results


def test_the_split_is_official_and_the_model_learns(whole):
    written, _ = record_of(whole)
    assert written["split"]["verdict"] == "official"
    assert (written["split"]["num_train"], written["total"]) == (1000, 5400)
    assert written["trainable_params"] == 147456
    assert written["correct"] / written["total"] > 0.4  # 0.1 is chance
    assert written["curve"][-1]["loss"] < written["curve"][0]["loss"]
    assert all(seconds > 0 for seconds in written["seconds"].values())


def test_the_same_command_again_is_skipped_in_under_15_seconds(shared, store, whole):
    began = time.perf_counter()
    done = run(shared, store, whole)
    assert time.perf_counter() - began < 15
    [line] = done.stdout.splitlines()
    assert line.startswith("done already: ")


def test_killed_half_way_and_started_again_it_leaves_the_same_record(shared, store, whole, tmp_path):
    victim = subprocess.Popen(command(shared, store, tmp_path), cwd=ROOT, stderr=subprocess.DEVNULL)
    until(lambda: list(tmp_path.rglob("seed0.pt")), victim)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not list(tmp_path.rglob("seed0.json"))
    again = run(shared, store, tmp_path)
    assert "resuming at step" in again.stdout
    (first, predicted), (second, predicted_again) = record_of(whole), record_of(tmp_path)
    assert json.dumps(without_entries(first, MEASURED)) == json.dumps(without_entries(second, MEASURED))
    assert predicted == predicted_again
    assert not list(tmp_path.rglob("*.pt"))


def test_ctrl_c_leaves_a_checkpoint_that_can_be_resumed_and_no_record(shared, store, tmp_path):
    victim = subprocess.Popen(
        command(shared, store, tmp_path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: list(tmp_path.rglob("seed0.pt")), victim)
    victim.send_signal(signal.SIGINT)
    _, said = victim.communicate()
    assert victim.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert len(list(tmp_path.rglob("seed0.pt"))) == 1
    assert not list(tmp_path.rglob("seed0.json"))
    assert not list(tmp_path.rglob("*.tmp"))


def until(condition, process, seconds=120):
    """Waits for something that a process brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_methods_stand_clearly_above_the_linear_probe(shared, store, tmp_path):
    """The README's main job at 56 px and 10 epochs: minutes, not seconds."""
    for method in ("linear", "lora", "moppa"):
        run(shared, store, tmp_path, method=method, image_size=56, epochs=10)
    accuracy = {}
    for path in tmp_path.rglob("seed0.json"):
        written = read_record(path)
        accuracy[written["method"]] = written["correct"] / written["total"]
    assert min(accuracy["lora"], accuracy["moppa"]) > accuracy["linear"] + 0.05
