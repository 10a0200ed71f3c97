"""What is committed under results/ was made by this code from these records."""

import shutil

import numpy as np
import pytest

from moppa import record
from moppa.report.table import write_tables
from tests.conftest import CONFIGS, ROOT

RECORDS = sorted((ROOT / "results" / "records").rglob("seed*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: "-".join(path.parts[-4:-1]))
def test_a_committed_record_is_whole_clean_and_agrees_with_its_predictions(path):
    written = record.read(path)
    assert written["git"]["dirty"] is False
    assert written["split"]["verdict"] == "official"
    kept = np.load(path.with_suffix(".npz"))
    assert len(kept["label"]) == written["total"]
    assert int((kept["predicted"] == kept["label"]).sum()) == written["correct"]
    assert path.parent.name == written["key"] == record.key_of(written["config"], written["weights"]["sha256"])


def test_the_committed_tables_are_those_of_the_records(tmp_path):
    shutil.copytree(ROOT / "results" / "records", tmp_path / "records")
    made = {path.name: path.read_bytes() for path in write_tables(tmp_path, CONFIGS)}
    assert made == {path.name: path.read_bytes() for path in (ROOT / "results" / "tables").glob("*")}
