"""The committed results: records are valid, and tables and figures are those that this code makes of them."""

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
def test_a_committed_record_is_valid_and_agrees_with_its_predictions(path):
    record = read_record(path)
    assert record["git"]["dirty"] is False
    assert record["split"]["verdict"] == "official"
    assert record["config"] == with_relative_paths(record["config"])
    predictions = np.load(path.with_suffix(".npz"))
    assert len(predictions["label"]) == record["total"]
    assert int((predictions["predicted"] == predictions["label"]).sum()) == record["correct"]
    assert path.parent.name == record["key"] == key_of(record["config"], record["weights"]["sha256"], record["dtype"])


def test_the_committed_tables_are_those_of_the_records(tmp_path):
    shutil.copytree(RESULTS / "records", tmp_path / "records")
    shutil.copy(RESULTS / "published.csv", tmp_path / "published.csv")
    made = write_tables(tmp_path, CONFIGS, strict=True)
    texts = {path.name: path.read_bytes() for path in made.written}
    texts |= {f"{table.name}-compare.md": comparison(table).encode() for table in made.tables}
    assert texts == {
        path.name: path.read_bytes() for path in (RESULTS / "tables").glob("*") if path.stem != "published"
    }
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    with_tables = [path.name for path in documents if QUOTED.search(path.read_text())]
    assert "README.md" in with_tables
    for path in documents:
        assert updated_text(path.read_text(), made.tables) == path.read_text(), f"make table updates {path.name}"


def test_an_unknown_table_between_markers_is_left_alone():
    text = "before\n<!-- table nowhere-final -->\nold\n<!-- end of table -->\nafter\n"
    assert updated_text(text, []) == text


def test_the_committed_figures_are_those_of_the_committed_tables():
    names = {path.name.split("-final")[0] for path in (RESULTS / "figures").glob("vtab1k-*")}
    assert names <= {path.name.split("-final")[0] for path in (RESULTS / "tables").glob("*-final.md")}
    for figure in (RESULTS / "figures").glob("*.png"):
        assert figure.with_suffix(".svg").exists()
