"""Records of the first format: they are read, and re-keyed without any other change.

`legacy/` holds three real ones: a final record of the mini suite, and a final record with the tune record it names.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from moppa.record import legacy
from moppa.record.rekey import rekey
from moppa.record.schema import key_of, read_record
from moppa.report.load import load_records
from moppa.utils.atomic import sha256_file
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.renamed import TARGETS, check_overrides

LEGACY = Path(__file__).parent / "legacy"
NAMES = ("mini_linear", "eurosat_nola_tune", "eurosat_nola_final")


def content_of(name):
    return json.loads((LEGACY / f"{name}.json").read_text(encoding="utf-8"))


def path_of(record):
    names = [record[name] for name in ("suite", "backbone", "task", "method", "key")]
    return "/".join([*names, f"seed{record['seed']}.json"])


@pytest.fixture
def results(tmp_path):
    """A results folder with the three records, byte for byte, and predictions that agree with them."""
    for name in NAMES:
        record = content_of(name)
        path = tmp_path / "records" / path_of(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((LEGACY / f"{name}.json").read_bytes())
        labels = np.zeros(record["total"], dtype=np.int16)
        predicted = (np.arange(record["total"]) >= record["correct"]).astype(np.int16)
        np.savez_compressed(path.with_suffix(".npz"), predicted=predicted, label=labels)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_the_first_format_is_recognized_and_its_key_reproduced(name):
    record = content_of(name)
    assert legacy.is_legacy(record)
    assert legacy.legacy_key(record["config"], record["weights"]["sha256"]) == record["key"]


@pytest.mark.parametrize("name", NAMES)
def test_a_record_of_the_first_format_is_read_in_todays_terms(name):
    old, record = content_of(name), read_record(LEGACY / f"{name}.json")
    config = record["config"]
    assert record["key"] == key_of(config, record["weights"]["sha256"], record["dtype"])
    assert config["data"]["name"] in ("mini", "tfds")
    assert config["data"]["cache"] == old["config"]["data"]["store"]
    assert [epoch["lr"] for epoch in record["curve"]] == [epoch["rate"] for epoch in old["curve"]]
    for group in ("backbone", "task", "data", "train", "protocol", "logger"):
        instantiate(OmegaConf.create(config), group)
    assert callable(instantiate(OmegaConf.create(config), "method.attach", _partial_=True))


def test_records_of_the_first_format_count_in_tables_as_they_are(results):
    records, excluded = load_records(results)
    assert len(records) == 3
    assert not excluded


def test_an_edited_record_of_the_first_format_is_excluded(results):
    path = results / "records" / path_of(content_of("mini_linear"))
    path.write_text(path.read_text().replace('"lr": 0.005', '"lr": 0.001'))
    records, [excluded] = load_records(results)
    assert len(records) == 2
    assert "its key is" in excluded.reason


def test_rekeying_changes_keys_paths_and_renamed_settings_only(results):
    before = {path: content_of(name) for name in NAMES for path in [path_of(content_of(name))]}
    predictions = {path: (results / "records" / path).with_suffix(".npz").read_bytes() for path in before}
    moves = rekey(results)
    assert len(moves) == 3
    for move in moves:
        old, path = before[move.old], results / "records" / move.new
        new = json.loads(path.read_text(encoding="utf-8"))
        assert path.with_suffix(".npz").read_bytes() == predictions[move.old]
        assert new["config"] == legacy.upgraded_config(old["config"])
        changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        assert changed <= {"key", "config", "tuned"}
        assert path.parent.name == new["key"] == key_of(new["config"], new["weights"]["sha256"], new["dtype"])
        assert not (results / "records" / move.old).exists()
    assert {record.content["key"] for record in load_records(results)[0]} == {move.content["key"] for move in moves}


def test_rekeying_twice_changes_nothing(results):
    rekey(results)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert rekey(results) == []
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_the_links_of_a_tuned_record_lead_to_the_rekeyed_tune_records(results):
    moves = {move.old: move for move in rekey(results)}
    tune, final = (moves[path_of(content_of(name))] for name in ("eurosat_nola_tune", "eurosat_nola_final"))
    tuned = json.loads((results / "records" / final.new).read_text())["tuned"]
    assert tuned["records"] == {tune.new: sha256_file(results / "records" / tune.new)}
    assert tuned["val200"] == content_of("eurosat_nola_final")["tuned"]["val200"]
    assert len(tuned["beaten"]) == len(content_of("eurosat_nola_final")["tuned"]["beaten"])


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("eurosat_nola_tune", '"correct": 178', '"correct": 179', "has changed since a final record was tuned on it"),
        (
            "eurosat_nola_tune",
            '"protocol": "tune"',
            '"protocol": "final"',
            "has changed since a final record was tuned",
        ),
        ("mini_linear", '"lr": 0.005', '"lr": 0.001', "its key is"),
        ("mini_linear", '"seed": 0', '"seed": 0', None),
    ],
)
def test_nothing_is_moved_if_one_record_is_wrong(results, name, old, new, message):
    path = results / "records" / path_of(content_of(name))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    before = sorted(results.rglob("*"))
    if message is None:
        assert len(rekey(results)) == 3
        return
    with pytest.raises(UserError, match=message):
        rekey(results)
    assert sorted(results.rglob("*")) == before


def test_every_renamed_python_path_leads_to_something_that_exists():
    for target in TARGETS.values():
        module, _, name = target.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), target


@pytest.mark.parametrize(
    ("override", "new"),
    [
        ("run.lean=[]", "run.skip_unused"),
        ("run.products=torch", "run.matmul_backend"),
        ("data.store=x", "data.cache"),
        ("protocol=paper", "protocol=best_on_test"),
        ("protocol=final,paper", "protocol=best_on_test"),
        ("run.skip_unused=[unread]", "last_block_tokens"),
    ],
)
def test_an_old_name_gives_one_line_with_the_new_one(override, new):
    with pytest.raises(UserError, match=new.replace(".", r"\.")) as raised:
        check_overrides(["method=lora", override])
    assert "\n" not in str(raised.value)
    assert override in str(raised.value)
