"""Records of merges that were edited by hand: `moppa verify` finds each edit, and no strict table is written."""

import json
import shutil
import sys

import numpy as np
import pytest

from moppa.cli import verify
from moppa.record.verify_merges import verify_merges
from moppa.report.build import write_tables
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS
from tests.factories import merge_record_of, with_merge_key, write_merge_file, write_record_file

TASKS = {"eurosat": ("specialized", 9), "dtd": ("natural", 3)}
LORA = ("backbone=test_vit", "method=lora")


def write_expert(results, task, protocol, seed):
    """Writes the record of an expert and returns what the record of a merge says about it."""
    fields = {
        "protocol": protocol,
        "seed": seed,
        "percent": 80,
        "shift": 7 * seed,
        "git": {"commit": None, "dirty": None},
    }
    trained = {"trained": {"sha256": f"tensors of {task} {protocol} {seed}"}}
    path = write_record_file(results, *LORA, f"task={task}", predictions=True, **fields, **trained)
    record = json.loads(path.read_text())
    names = ("key", "correct", "total")
    stated = {"record_sha256": sha256_file(path), "trained_sha256": trained["trained"]["sha256"]}
    return stated | {name: record[name] for name in names}, record["config"]["task"]


def write_merge(results, seed):
    tasks = {}
    for name in TASKS:
        expert = {protocol: write_expert(results, name, protocol, seed) for protocol in ("tune", "final")}
        config = expert["final"][1]
        total = config["num_test"]
        tasks[name] = {
            **{field: config[field] for field in ("group", "column", "title", "num_classes")},
            "expert": {protocol: stated for protocol, (stated, _) in expert.items()},
            "total": total,
            "trained_head": total // 2,
            "fitted_head": total // 3,
        }
    return write_merge_file(results, merge_record_of("ties", tasks, names=("vtab1k", "test_vit", "lora"), seed=seed))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two merges, of seeds 0 and 1, with the records of their experts."""
    results = tmp_path_factory.mktemp("merges")
    for seed in (0, 1):
        write_merge(results, seed)
    return results


@pytest.fixture
def results(written, tmp_path):
    return shutil.copytree(written, tmp_path / "results")


def merge_of(results, seed=0):
    [path] = (results / "records" / "merge").rglob(f"merge-seed{seed}-draw0.json")
    return path


def read(path):
    return json.loads(path.read_text())


def edit(path, change):
    """Applies a function to a record, writes it and returns it."""
    content = read(path)
    change(content)
    path.write_text(json.dumps(content))
    return content


def run_verify(results, monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["moppa verify", str(results), "--no-recount", *words])
    return verify.main(), capsys.readouterr().out


def test_merges_that_nobody_edited_are_verified(results, monkeypatch, capsys):
    status, output = run_verify(results, monkeypatch, capsys)
    assert (status, output.splitlines()) == (0, [f"10 of 10 records verified in {results / 'records'}"])
    names = {path.name for path in write_tables(results, CONFIGS, strict=True).written}
    assert "merge-vtab1k-test_vit.md" in names


def raise_count(results):
    edit(merge_of(results), lambda content: content["tasks"]["dtd"].update(trained_head=1000))


def raise_count_and_predictions(results):
    """Without the digest of the predictions."""
    path = merge_of(results)
    content = edit(path, lambda content: content["tasks"]["dtd"].update(fitted_head=1000))
    sha256 = content["predictions"]
    write_merge_file(results, content)
    edit(path, lambda content: content.update(predictions=sha256))


def change_labels(results):
    """The record, its predictions and the digest agree: only the expert's labels tell."""
    path = merge_of(results)
    file = path.with_suffix(".npz")
    with np.load(file) as arrays:
        edited = {name: array + 1 if name.startswith("dtd/") else array for name, array in arrays.items()}
    np.savez_compressed(file, **edited)
    edit(path, lambda content: content.update(predictions={"sha256": sha256_file(file)}))


def lower_expert(results):
    """A worse expert makes a better merge; the key does not tell."""
    edit(merge_of(results), lambda content: content["tasks"]["dtd"]["expert"]["final"].update(correct=900))


def other_expert(results):
    """The expert of another seed: its key is the same, its record is not."""
    other = read(merge_of(results, seed=1))["tasks"]["dtd"]["expert"]
    edit(merge_of(results), lambda content: content["tasks"]["dtd"].update(expert=other))


def swap_protocols(results):
    path = merge_of(results)

    def swap(content):
        for task in content["tasks"].values():
            task["expert"]["tune"] = task["expert"]["final"]
        content["search"]["correct"] = [dict.fromkeys(content["tasks"], 0)] * 3
        content["search"]["normalized"] = [0.0] * 3
        content["scale"] = 0.1

    content = with_merge_key(edit(path, swap))
    path.unlink()
    write_merge_file(results, content)


def edit_expert_record(results):
    [path] = [
        path for path in (results / "records").rglob("dtd/lora/*/seed0.json") if read(path)["protocol"] == "final"
    ]
    edit(path, lambda content: content.update(trained={"sha256": "0" * 64}))


def delete_expert_record(results):
    for path in (results / "records").rglob("eurosat/lora/*/seed1.*"):
        path.unlink()


def move(results):
    path = merge_of(results)
    for suffix in (".json", ".npz"):
        path.with_suffix(suffix).rename(path.with_name(f"merge-seed0-draw1{suffix}"))


def copy_seed(results):
    """Seed 1 gets the predictions and the search of seed 0, with the digest and the counts."""
    first, second = merge_of(results), merge_of(results, seed=1)
    shutil.copy(first.with_suffix(".npz"), second.with_suffix(".npz"))
    original = read(first)

    def take(content):
        content.update(predictions=original["predictions"], search=original["search"])
        for name, task in content["tasks"].items():
            task["expert"]["tune"] = original["tasks"][name]["expert"]["tune"]

    edit(second, take)


def change(**fields):
    return lambda results: edit(merge_of(results), lambda content: content.update(fields))


def change_search(**fields):
    return lambda results: edit(merge_of(results), lambda content: content["search"].update(fields))


def raise_search(results):
    edit(merge_of(results), lambda content: content["search"]["normalized"].__setitem__(0, 0.9))


EDITS = {
    "a raised count": (raise_count, "gives 940 for trained_head of dtd, its record 1000"),
    "a raised count with predictions": (raise_count_and_predictions, "has changed since its record"),
    "predictions deleted": (lambda results: merge_of(results).with_suffix(".npz").unlink(), "(.npz) are missing"),
    "other labels": (change_labels, "its labels of dtd are not those of its expert"),
    "a worse expert": (lower_expert, "it states correct 900 of its final expert on dtd, whose record says 1504"),
    "another expert": (other_expert, "seed0.json, which has changed"),
    "experts of the wrong protocol": (swap_protocols, "its tune expert on dtd is one of protocol=final"),
    "an expert that was trained otherwise": (edit_expert_record, "which has changed"),
    "an expert without a record": (delete_expert_record, "which is missing"),
    "another scale": (change(scale=0.1), "its scale is 0.1, the best of its search is 0.5"),
    "scales that its config does not name": (change_search(scales=[0.2, 0.5]), "are not those of its config"),
    "a better search": (raise_search, "it states 0.9 on val200 at scale 0.1"),
    "another algorithm": (change(algorithm="tsv"), "its algorithm is tsv, its config says ties"),
    "other weights": (change(weights={"name": "mae", "sha256": "0" * 64}), "its key is"),
    "another place": (move, "it belongs at merge/vtab1k/test_vit/lora/ties/"),
    "a seed copied as another": (copy_seed, "its search and predictions are those of merge/"),
    "no fields": (
        lambda results: merge_of(results).write_text("{}"),
        "its fields are not those of the record of a merge",
    ),
    "no JSON": (lambda results: merge_of(results).write_text("{"), "it is not JSON"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_found(name, results):
    apply, problem = EDITS[name]
    apply(results)
    assert any(problem in finding.problem for finding in verify_merges(results)), verify_merges(results)


def test_an_edit_stops_strict_tables_and_fails_the_verification(results, monkeypatch, capsys):
    raise_count(results)
    status, output = run_verify(results, monkeypatch, capsys)
    assert status == 1
    assert f"{merge_of(results)}: " in output
    assert f"9 of 10 records verified in {results / 'records'}" in output
    with pytest.raises(UserError, match="nothing was written") as error:
        write_tables(results, CONFIGS, strict=True)
    assert "gives 940 for trained_head of dtd" in str(error.value)
    assert not (results / "tables").exists()


def test_an_expert_that_was_trained_again_gives_the_same_tensors_and_is_the_same(results):
    """Its record has other times, so that its digest differs."""
    for path in (results / "records").rglob("dtd/lora/*/seed0.json"):
        edit(path, lambda content: content["seconds"].update(train=1.0))
    assert verify_merges(results) == []


def test_experts_can_be_in_a_results_folder_of_their_own(results):
    (results / "records" / "vtab1k").rename(results / "moved")
    (results / "experts" / "records").mkdir(parents=True)
    (results / "moved").rename(results / "experts" / "records" / "vtab1k")
    assert len(verify_merges(results)) == 8
    for seed in (0, 1):
        edit(merge_of(results, seed), lambda content: content.update(experts="experts"))
    assert verify_merges(results) == []


def test_a_commit_that_does_not_exist_is_found(results, monkeypatch, capsys):
    monkeypatch.setattr("moppa.cli.verify.has_commit", lambda commit: commit != "deadbeef")
    edit(merge_of(results), lambda content: content.update(git={"commit": "deadbeef", "dirty": False}))
    status, output = run_verify(results, monkeypatch, capsys)
    assert status == 1
    assert "its commit deadbeef is not in this repository" in output
