"""Cells whose seeds ran on different machines are marked, and captions name local changes only where there are some."""

import pytest

from moppa.report.build import write_tables
from tests.conftest import CONFIGS
from tests.factories import COMMIT, write_record_file

CPU = {"type": "cpu", "name": "x86_64", "threads": 1, "matmul_backend": "torch"}


@pytest.mark.parametrize(
    ("other", "values"),
    [
        ({**CPU, "matmul_backend": "onednn"}, "onednn and torch"),
        ({"type": "cuda", "name": "H100", "threads": 1}, "cpu and cuda"),
        ({**CPU, "threads": 2}, ""),
        ({"type": "cpu", "name": "x86_64", "threads": 1}, ""),  # says nothing about its backend
    ],
)
def test_a_cell_whose_seeds_ran_on_different_kinds_of_machines_is_marked(other, values, tmp_path):
    for seed, device in enumerate((CPU, other)):
        write_record_file(tmp_path, "method=lora", "task=dtd", seed=seed, device=device)
        write_record_file(tmp_path, "method=linear", "task=dtd", seed=seed, device=CPU)
    [table] = write_tables(tmp_path, CONFIGS).tables
    assert {row.method: "¶" in row.marks for row in table.rows} == {"linear": False, "lora": bool(values)}
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "tables").iterdir() if path.suffix != ".csv"]
    assert all((f"lora on dtd ({values})" in text) is bool(values) for text in texts)


@pytest.mark.parametrize("dirty", [False, True])
def test_local_changes_are_explained_only_if_a_record_has_some(dirty, tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd", git={"commit": COMMIT, "dirty": dirty})
    [table] = write_tables(tmp_path, CONFIGS).tables
    assert any("with local changes" in fact for fact in table.facts) is dirty
