"""Packs of records that somebody sends: what `moppa submit` writes, `moppa verify` finds and `moppa accept` adds."""

import json
import shutil
import sys
import zipfile

import numpy as np
import pytest

from moppa.cli import accept, submit, verify
from moppa.record.pack import MANIFEST, opened, write_pack
from moppa.record.schema import with_key
from moppa.record.verify import Verification
from moppa.report.build import write_tables
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS
from tests.factories import path_of, write_predictions, write_record_file

LORA = ("backbone=test_vit", "method=lora", "task=dtd")
COUNTS = {"trainable_params": 6 * 2 * 2 * 64 * 8, "head_params": 65 * 47}
NO_GIT = {"git": {"commit": None, "dirty": None}}
NUM_TEST = 1880


@pytest.fixture
def results(tmp_path):
    """The sender's results: two seeds of LoRA."""
    for seed in (0, 1):
        fields = {"seed": seed, "percent": 80 + seed, "predictions": True}
        write_record_file(tmp_path / "sent", *LORA, **fields, **COUNTS, **NO_GIT)
    return tmp_path / "sent"


def run(command, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["moppa", *map(str, words)])
    return command.main()


def pack(results, out, monkeypatch=None):
    """Packs results; with `monkeypatch` as a forger would, without verifying them."""
    if monkeypatch is not None:
        monkeypatch.setattr("moppa.record.pack.verify_records", lambda _: Verification(findings=[], warnings=[]))
    return write_pack(results, out, sender="Jane Doe", contact="", pattern=None, with_tensors=False)


def first_record(results):
    return min((results / "records").rglob("seed0.json"))


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_pack_is_verified_and_its_row_names_the_sender(results, tmp_path, monkeypatch, capsys):
    zipped, own = tmp_path / "pack.zip", tmp_path / "own"
    words = (results, zipped, "--sender", "Jane Doe", "--only", "vtab1k/*/*/lora")
    assert run(submit, monkeypatch, *words) == 0
    with zipfile.ZipFile(zipped) as archive:
        manifest = json.loads(archive.read(MANIFEST))
    assert (manifest["sender"], manifest["commits"], manifest["versions"]) == (
        "Jane Doe",
        ["none"],
        {"moppa": ["0.1.0"]},
    )
    assert [name.rpartition("/")[2] for name in manifest["files"]] == [
        "seed0.json", "seed0.npz", "seed1.json", "seed1.npz",
    ]  # fmt: skip
    assert run(verify, monkeypatch, zipped) == 0
    assert f"sent by Jane Doe, packed {manifest['when']}" in capsys.readouterr().out

    write_record_file(own, *LORA, percent=70, predictions=True, **COUNTS, **NO_GIT)
    assert run(accept, monkeypatch, zipped, own) == 0
    output = write_tables(own, CONFIGS, strict=True)
    assert {row.name: len(row.records) for row in output.tables[0].rows} == {"lora": 1, "lora (sender Jane Doe)": 2}
    assert run(accept, monkeypatch, zipped, own) == 1
    assert "was added before" in capsys.readouterr().err

    assert run(verify, monkeypatch, own) == 0
    sent = next((own / "submitted").rglob("seed1.json"))
    edit(sent, correct=1)
    assert run(verify, monkeypatch, own) == 1
    assert "seed1.json is not the file that was packed" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"submitted/jane-doe-\w+/records/.*seed1\.json: .*1523 of 1880 images correct"):
        write_tables(own, CONFIGS, strict=True)


def raise_count(results):
    edit(first_record(results), correct=NUM_TEST)


def raise_count_and_predictions(results):
    path = first_record(results)
    content = json.loads(path.read_text()) | {"correct": NUM_TEST}
    write_predictions(path, content)
    edit(path, correct=NUM_TEST)


def swap_predictions(results):
    first = first_record(results).with_suffix(".npz")
    second, kept = first.with_name("seed1.npz"), first.with_name("kept")
    first.rename(kept)
    second.rename(first)
    kept.rename(second)


def change_fingerprint(results):
    path = first_record(results)
    edit(path, split=json.loads(path.read_text())["split"] | {"fingerprint": {"train800_sorted": "0" * 64}})


def change_fingerprint_of_the_task_too(results):
    path = first_record(results)
    content = json.loads(path.read_text())
    digests = dict.fromkeys(content["config"]["task"]["fingerprint"], "0" * 64)
    content["split"]["fingerprint"] = digests
    content["config"]["task"]["fingerprint"] = digests
    move(path, content, results)


def move(path, content, results):
    """Replaces a record by one at the path that its content gives."""
    content = with_key(content)
    target = results / "records" / path_of(content)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target != path:
        shutil.move(path.with_suffix(".npz"), target.with_suffix(".npz"))
        path.unlink()
    target.write_text(json.dumps(content))


def pose_as_final(results, *, entry=None, every=None, arrays=()):
    """Writes a record of `best_on_test` that says final, with what the forger forgot to remove."""
    path = first_record(results)
    content = json.loads(path.read_text())
    if entry is not None:
        content["best_on_test"] = entry
    if every is not None:
        content["config"]["protocol"]["every"] = every
    if arrays:
        from moppa.utils.atomic import sha256_file

        with np.load(path.with_suffix(".npz")) as file:
            np.savez_compressed(path.with_suffix(".npz"), **file, **{name: np.arange(2) for name in arrays})
        content["predictions"] = {"sha256": sha256_file(path.with_suffix(".npz"))}
    move(path, content, results)


REPEATED = "it was evaluated during the training, and protocol final evaluates once"
FORGERIES = {
    "an edited count": (raise_count, "has 1504 of 1880 images correct, its record 1880"),
    "an edited count with predictions": (raise_count_and_predictions, "has changed since its record was written"),
    "swapped prediction files": (swap_predictions, "seed0.npz has changed since its record was written"),
    "a wrong fingerprint": (change_fingerprint, "its split check is official, but train800_sorted is not"),
    "a wrong fingerprint of the task": (change_fingerprint_of_the_task_too, "its task differs from its YAML in finger"),
    "best-on-test with its evaluations": (lambda r: pose_as_final(r, entry={"epoch": 10, "correct": 1504}), REPEATED),
    "best-on-test with diagnostics": (lambda r: pose_as_final(r, arrays=["evaluation/correct"]), REPEATED),
    "best-on-test with its protocol": (lambda r: pose_as_final(r, every=10), "final evaluates once, after training"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found_in_a_pack_and_is_not_added(name, results, tmp_path, monkeypatch, capsys):
    forge, problem = FORGERIES[name]
    forge(results)
    zipped = tmp_path / "pack.zip"
    with pytest.raises(UserError, match="nothing was packed"):
        pack(results, zipped)
    pack(results, zipped, monkeypatch)
    assert run(verify, monkeypatch, zipped, "--no-recount") == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if problem in line)
    assert line.startswith(f"{zipped}/records/")
    assert run(accept, monkeypatch, zipped, tmp_path / "own") == 1
    assert not (tmp_path / "own").exists()


def test_files_that_are_not_those_of_the_manifest_are_found(results, tmp_path, monkeypatch, capsys):
    pack(results, tmp_path / "pack.zip")
    with opened(tmp_path / "pack.zip") as folder:
        changed = first_record(folder)
        changed.write_text(changed.read_text() + "\n")
        changed.with_name("seed1.npz").unlink()
        shutil.copy(changed, changed.with_name("seed7.json"))
        assert run(verify, monkeypatch, folder, "--no-recount") == 1
        output = capsys.readouterr().out
        for words in ("seed0.json is not the file that was packed", "seed1.npz is listed", "seed7.json is not listed"):
            assert f"{folder / MANIFEST}: records/" in output
            assert words in output
        (folder / MANIFEST).write_text('{"format": 1, "sender": "Jane"}')
        assert run(verify, monkeypatch, folder) == 1
        assert "manifest.json has no valid when" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../seed0.json", "records/a/b/../d/e/seed0.json", "/etc/passwd", "records/x.py"])
def test_a_zip_with_other_files_is_not_unpacked(name, tmp_path, monkeypatch, capsys):
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as archive:
        archive.writestr(name, "x")
    assert run(verify, monkeypatch, tmp_path / "pack.zip") == 1
    assert "which is no file of a pack" in capsys.readouterr().err


def test_what_is_no_zip_and_what_has_no_records_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "pack.zip").write_bytes(b"PK no zip")
    for words in ((tmp_path / "pack.zip",), (tmp_path / "absent",), (tmp_path,)):
        assert run(verify, monkeypatch, *words) == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sender": "../x"}, r"sender='\.\./x': give a name of letters"),
        ({"sender": ""}, r"sender='': give a name"),
        ({"pattern": "vtab1k/*/*/vpt"}, r"there are no records of vtab1k/\*/\*/vpt in"),
        ({"pattern": "lora"}, r"there are no records of lora in"),
        ({"out": "pack.tar"}, r"pack\.tar: a pack is a ZIP"),
    ],
)
def test_a_wrong_argument_of_submit_is_named(changes, message, results, tmp_path):
    given = {"out": "pack.zip", "sender": "Jane", "contact": "", "pattern": None, "with_tensors": False} | changes
    with pytest.raises(UserError, match=message):
        write_pack(results, tmp_path / given.pop("out"), **given)
    assert list(tmp_path.iterdir()) == [results]
