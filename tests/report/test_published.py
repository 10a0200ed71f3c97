"""Published rows: what their cells give, what is flagged, and how they stand beside ours."""

import csv

import pytest

from moppa.report import published
from moppa.report.build import write_tables
from moppa.report.columns import suite_columns, task_groups
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, ROOT
from tests.factories import put
from tests.test_configs import TASKS

GROUPS = task_groups(suite_columns("vtab1k", CONFIGS))
ROWS = published.load(ROOT / "results" / "published.csv", GROUPS)
IN21K, AUGREG = "vit_base_patch16_224.orig_in21k", "vit_base_patch16_224.augreg_in21k"
OSU_NAMES = {"cifar": "cifar100"}  # the study's name of a task where it is not ours
MAE = "vit_base_patch16_224.mae"

# Mean of group means, as protocols of the field quote them: the papers' own, and those tuned on val200 (last epoch).
QUOTED = {
    "linear": (57.6, 60.5), "bitfit": (65.2, 74.5), "vpt_shallow": (67.8, 66.1), "vpt_deep": (72.0, 73.4),
    "lora": (74.6, 75.2), "fact_tk": (75.6, 75.7), "ssf": (75.7, 75.1), "repadapter": (76.1, 75.8),
    "convpass": (76.6, 76.4), "full": (69.0, 61.9), "adapter": (73.9, None), "houlsby": (None, 76.3),
    "adaptformer": (74.7, 76.0), "spt_lora": (76.4, None), "adapter_plus": (77.6, None),
}  # fmt: skip
QUOTED_MAE = {
    "full": 64.3, "linear": 32.1, "bitfit": 59.3, "vpt_shallow": 45.7, "vpt_deep": 41.1, "adapter": 63.4, "lora": 64.3,
    "spt_lora": 69.8,
}  # fmt: skip


@pytest.mark.parametrize("method", QUOTED)
def test_means_recomputed_from_cells_are_those_that_are_quoted(method):
    rows = published.for_checkpoint(ROWS, IN21K)
    for row, quoted in zip(
        (published.paper_row(rows, method), published.honest_row(rows, method)), QUOTED[method], strict=True
    ):
        if quoted is not None:
            assert row.mean_of_groups == pytest.approx(quoted, abs=0.05 + 0.005)


@pytest.mark.parametrize("method", QUOTED_MAE)
def test_means_of_mae_rows_are_those_that_are_quoted(method):
    row = published.paper_row(published.for_checkpoint(ROWS, MAE), method)
    assert row.mean_of_groups == pytest.approx(QUOTED_MAE[method], abs=0.05)


def test_the_304_cells_tuned_on_val200_aggregate_to_their_published_means():
    honest = [row for row in ROWS if row.selection == "last_epoch"]
    assert sum(len(row.cells) for row in honest) == 304
    for row in honest:
        assert set(row.printed) == set(published.MEANS)
        for name, mean in row.printed.items():
            assert row.means[name] == pytest.approx(mean, abs=0.05)


def test_known_misprints_are_flagged_and_nothing_else():
    flagged = {(row.name, row.pretraining, row.source[:6]) for row in ROWS if "M" in row.flags(row.checkpoint)}
    assert flagged == {
        ("Convpass", "in21k", "HyperA"), ("NOAH", "in21k", "PACE, "), ("VPT-Deep", "mae", "DA-VPT"),
        ("GateVPT", "mae", "DA-VPT"), ("Linear", "mae", "SNELL,"),
    }  # fmt: skip


def test_flags_say_what_makes_a_row_incomparable():
    rows = published.for_checkpoint(ROWS, IN21K)
    assert published.paper_row(rows, "convpass").flags(IN21K) == "BJ"
    assert published.honest_row(rows, "convpass").flags(IN21K) == "JN"
    assert published.paper_row(rows, "ssf").flags(IN21K) == "BC"
    assert published.paper_row(rows, "ssf").flags(AUGREG) == "B"
    assert published.for_checkpoint(ROWS, "convnext_base.fb_in22k") == []


def test_a_cell_that_is_no_number_is_named(tmp_path):
    text = (ROOT / "results" / "published.csv").read_text().replace("68.9,87.7", "68.9,many")
    (tmp_path / "published.csv").write_text(text)
    with pytest.raises(UserError, match="many"):
        published.load(tmp_path / "published.csv", GROUPS)
    assert published.load(tmp_path / "none.csv", GROUPS) == []


def test_ours_stands_beside_the_papers_number_and_the_honest_one(tmp_path):
    (tmp_path / "published.csv").write_text((ROOT / "results" / "published.csv").read_text())
    for task in TASKS:
        put(tmp_path, "backbone=vit_b16_in21k", "method=lora", f"task={task}", percent=76)
    put(tmp_path, "backbone=vit_b16_in21k", "method=moppa", "task=dtd")
    put(tmp_path, "backbone=vit_b16_in21k", "method=ssf", "task=dtd")
    made = write_tables(tmp_path, CONFIGS)
    rows = {row.method: row.beside for row in made.tables[0].rows}
    assert rows["moppa"] == {}
    assert rows["lora"]["paper"].deviation == pytest.approx(76 - 74.60, abs=0.02)
    assert rows["lora"]["paper"].flags == "BJ"
    assert rows["lora"]["tuned"].deviation == pytest.approx(76 - 75.24, abs=0.02)
    assert rows["ssf"]["paper"].deviation is None  # ours is not whole
    [text] = [path.read_text() for path in made.written if path.suffix == ".md"]
    assert "74.6 BJ" in text
    assert "J JPEG lineage" in text
    assert "C another checkpoint" in text
    assert "V-PETL" in text


def test_published_rows_stand_beside_neither_val200_nor_another_size(tmp_path):
    (tmp_path / "published.csv").write_text((ROOT / "results" / "published.csv").read_text())
    put(tmp_path, "backbone=vit_b16_in21k", "method=lora", "task=dtd", protocol="tune")
    put(tmp_path, "backbone=vit_b16_augreg", "backbone.image_size=112", "method=lora", "task=dtd")
    assert all(not table.published for table in write_tables(tmp_path, CONFIGS).tables)


def test_every_number_of_the_collection_is_there_and_no_other(shared):
    """Against the collected facts, from which the file was made."""
    with (shared / "vtab" / "published.csv").open() as file:
        given = [line for line in csv.DictReader(file) if line["accuracy"] != "absent"]
    cells = sorted((float(x["accuracy"]), x["task"]) for x in given if not x["task"].startswith("mean"))
    assert cells == sorted((value, task) for row in ROWS for task, value in row.cells.items())
    means = sorted((float(x["accuracy"]), x["task"]) for x in given if x["task"].startswith("mean"))
    assert means == sorted((value, f"mean_{name}") for row in ROWS for name, value in row.printed.items())


def test_the_304_cells_are_those_of_the_collection(shared):
    with (shared / "vtab" / "osu_best_tune.csv").open() as file:
        given = list(csv.DictReader(file))
    for column, selection in (("last_epoch_acc", "last_epoch"), ("best_on_test_acc", "best_on_test")):
        rows = [row for row in ROWS if row.selection == selection and "OSU" in row.name]
        ours = sorted((round(value, 2), task) for row in rows for task, value in row.cells.items())
        assert ours == sorted(
            (round(float(line[column]), 2), OSU_NAMES.get(line["task"], line["task"])) for line in given
        )
