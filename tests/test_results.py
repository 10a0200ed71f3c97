"""The committed results: records are valid, and tables and figures are those that this code makes of them."""

import shutil

import numpy as np
import pytest

from moppa.record import merge_schema
from moppa.record.schema import key_of, read_record, with_relative_paths
from moppa.record.verify_merges import verify_merges
from moppa.report import continual
from moppa.report.build import write_tables
from moppa.report.render.comparison import comparison
from moppa.report.render.readme import NUMBER, QUOTED, quoting_files, table_path, updated_text
from tests.conftest import CONFIGS, ROOT

RESULTS = ROOT / "results"
SWEEPS = sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml"))
EXPERIMENTS = [RESULTS / name for name in ("precision", *SWEEPS) if (RESULTS / name).exists()]  # not results/demo
TASKS = [
    pytest.param(path, marks=() if folder == RESULTS else pytest.mark.slow, id=path.relative_to(ROOT).as_posix())
    for folder in (RESULTS, *EXPERIMENTS, *(RESULTS / name / "retrained" for name in SWEEPS))
    for path in sorted(folder.glob("records/*/*/*"))
    if path.parent.parent.name not in (merge_schema.FOLDER, continual.FOLDER)
]


@pytest.mark.parametrize("task", TASKS)
def test_committed_records_are_valid_and_agree_with_their_predictions(task):
    paths = list(task.rglob("seed*.json"))
    assert paths
    for path in paths:
        check_record(path)


@pytest.mark.slow  # seconds
@pytest.mark.parametrize("results", [RESULTS, *EXPERIMENTS], ids=lambda path: path.name)
def test_committed_merges_agree_with_their_predictions_and_their_experts(results):
    assert verify_merges(results) == []
    for path in merge_schema.merge_paths(results):
        record, _ = merge_schema.read_merge_record(path)
        assert record["git"]["dirty"] is False


@pytest.mark.parametrize("results", [RESULTS, *EXPERIMENTS], ids=lambda path: path.name)
def test_committed_sequences_are_whole(results):
    files = list((results / "records" / continual.FOLDER).rglob("*.json"))
    sequences = continual.read_sequences(results)
    assert sum(len(sequence.steps) for sequence in sequences) == len(files)
    assert all(sequence.last["git"]["dirty"] is False for sequence in sequences)


def check_record(path):
    """Fails if a record is invalid, is not where its key says, or contradicts its predictions."""
    record = read_record(path)
    assert record["git"]["dirty"] is False
    assert record["split"]["verdict"] == "official"
    assert record["config"] == with_relative_paths(record["config"])
    predictions = np.load(path.with_suffix(".npz"))
    assert len(predictions["label"]) == record["total"]
    assert int((predictions["predicted"] == predictions["label"]).sum()) == record["correct"]
    assert path.parent.name == record["key"] == key_of(record["config"], record["weights"]["sha256"], record["dtype"])


@pytest.mark.parametrize(
    "results",
    [
        pytest.param(folder, marks=() if folder == RESULTS else pytest.mark.slow, id=folder.name)
        for folder in (RESULTS, *EXPERIMENTS)
        if (folder / "tables").exists()
    ],
)
def test_the_committed_tables_are_those_of_the_records(results, tmp_path):
    for name in ("records", "retrained"):  # the latter has experts that some merges name
        if (results / name).exists():
            shutil.copytree(results / name, tmp_path / name)
    if results == RESULTS:
        shutil.copy(results / "published.csv", tmp_path / "published.csv")
    made = write_tables(tmp_path, CONFIGS, strict=True)
    texts = {path.name: path.read_bytes() for path in made.written}
    if results == RESULTS:
        texts |= {f"{table.name}-compare.md": comparison(table).encode() for table in made.tables}
    assert texts == {
        path.name: path.read_bytes() for path in (results / "tables").glob("*") if path.stem != "published"
    }


def test_make_table_has_updated_what_readme_and_docs_quote():
    for path in quoting_files(ROOT):
        assert updated_text(path.read_text(), RESULTS / "tables") == path.read_text(), f"make table updates {path.name}"


def test_the_readme_and_the_lab_notes_quote_the_tables():
    quoted = {}
    for path in quoting_files(ROOT):
        text = path.read_text()
        quoted[path.relative_to(ROOT).as_posix()] = [match[1] for match in QUOTED.findall(text) + NUMBER.findall(text)]
    assert quoted["README.md"]
    assert quoted["docs/log/eurosat.md"]
    names = {name for names in quoted.values() for name in names if name != "NAME"}
    assert all(table_path(name, RESULTS / "tables").exists() for name in names)


def test_the_committed_figures_are_those_of_the_committed_tables():
    names = {path.name.split("-final")[0] for path in (RESULTS / "figures").glob("vtab1k-*")}
    assert names <= {path.name.split("-final")[0] for path in (RESULTS / "tables").glob("*-final.md")}
    for figure in (RESULTS / "figures").glob("*.png"):
        assert figure.with_suffix(".svg").exists()
