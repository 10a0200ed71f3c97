"""What is committed under results/ was made by this code from these records."""

import shutil

import numpy as np
import pytest

from moppa.record.schema import key_of, read_record, with_relative_paths
from moppa.report.build import write_tables
from moppa.report.render.comparison import comparison
from moppa.report.render.readme import QUOTED, updated_text
from tests.conftest import CONFIGS, ROOT

RESULTS = ROOT / "results"
RECORDS = sorted((RESULTS / "records").rglob("seed*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: "-".join(path.parts[-4:-1]))
def test_a_committed_record_is_whole_clean_and_agrees_with_its_predictions(path):
    written = read_record(path)
    assert written["git"]["dirty"] is False
    assert written["split"]["verdict"] == "official"
    assert written["config"] == with_relative_paths(written["config"])
    kept = np.load(path.with_suffix(".npz"))
    assert len(kept["label"]) == written["total"]
    assert int((kept["predicted"] == kept["label"]).sum()) == written["correct"]
    assert path.parent.name == written["key"] == key_of(written["config"], written["weights"]["sha256"])


def test_the_committed_tables_are_those_of_the_records(tmp_path):
    shutil.copytree(RESULTS / "records", tmp_path / "records")
    shutil.copy(RESULTS / "published.csv", tmp_path / "published.csv")
    made = write_tables(tmp_path, CONFIGS, strict=True)
    texts = {path.name: path.read_bytes() for path in made.written}
    texts |= {f"{table.name}-compare.md": comparison(table).encode() for table in made.tables}
    assert texts == {
        path.name: path.read_bytes() for path in (RESULTS / "tables").glob("*") if path.stem != "published"
    }
    quoting = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    quoted = [path.name for path in quoting if QUOTED.search(path.read_text())]
    assert "README.md" in quoted
    for path in quoting:
        assert updated_text(path.read_text(), made.tables) == path.read_text(), f"make table renews {path.name}"


def test_a_quoted_table_that_is_unknown_stays_as_it_is():
    text = "before\n<!-- table nowhere-final -->\nold\n<!-- end of table -->\nafter\n"
    assert updated_text(text, []) == text


def test_the_committed_figures_are_of_the_committed_tables():
    names = {path.name.split("-final")[0] for path in (RESULTS / "figures").glob("vtab1k-*")}
    assert names <= {path.name.split("-final")[0] for path in (RESULTS / "tables").glob("*-final.md")}
    for picture in (RESULTS / "figures").glob("*.png"):
        assert picture.with_suffix(".svg").exists()
