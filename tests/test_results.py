"""The committed results: records are valid, and tables and figures are those that this code makes of them."""

import shutil

import numpy as np
import pytest

from moppa.record.schema import key_of, read_record, with_relative_paths
from moppa.report.build import write_tables
from moppa.report.render.comparison import comparison
from moppa.report.render.readme import NUMBER, QUOTED, quoting_files, updated_text
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
    for path in quoting_files(ROOT):
        assert updated_text(path.read_text(), tmp_path / "tables") == path.read_text(), (
            f"make table updates {path.name}"
        )


def test_the_readme_and_the_lab_notes_quote_the_tables():
    quoted = {}
    for path in quoting_files(ROOT):
        text = path.read_text()
        quoted[path.relative_to(ROOT).as_posix()] = [match[1] for match in QUOTED.findall(text) + NUMBER.findall(text)]
    assert quoted["README.md"]
    assert quoted["docs/log/eurosat.md"]
    names = {name for names in quoted.values() for name in names if name != "NAME"}
    assert all((RESULTS / "tables" / f"{name}.md").exists() for name in names)


def test_the_committed_figures_are_those_of_the_committed_tables():
    names = {path.name.split("-final")[0] for path in (RESULTS / "figures").glob("vtab1k-*")}
    assert names <= {path.name.split("-final")[0] for path in (RESULTS / "tables").glob("*-final.md")}
    for figure in (RESULTS / "figures").glob("*.png"):
        assert figure.with_suffix(".svg").exists()
