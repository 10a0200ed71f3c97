"""Published rows: recomputed means, flags, and the comparison with our rows."""

import csv
import shutil
from fractions import Fraction

import pytest

from moppa.report import published
from moppa.report.build import read_tables, write_tables
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, ROOT
from tests.factories import write_record_file
from tests.test_configs import TASKS

PUBLISHED = ROOT / "results" / "published.csv"
ROWS = published.load(PUBLISHED, CONFIGS)["vtab1k"]
IN21K, AUGREG = "vit_base_patch16_224.orig_in21k", "vit_base_patch16_224.augreg_in21k"
OSU_NAMES = {"cifar": "cifar100"}  # tasks that the study names differently
MAE = "vit_base_patch16_224.mae"

# The mean of group means as other papers quote it: (the paper's own row, the row tuned on val200, last epoch).
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
def test_recomputed_means_equal_the_quoted_ones(method):
    rows = published.same_pretraining(ROWS, IN21K)
    found = published.paper_row(rows, method), published.val_tuned_row(rows, method)
    for row, quoted in zip(found, QUOTED[method], strict=True):
        if quoted is not None:
            assert row.mean_of_groups == pytest.approx(quoted, abs=0.05 + 0.005)


@pytest.mark.parametrize("method", QUOTED_MAE)
def test_recomputed_means_of_mae_rows_equal_the_quoted_ones(method):
    row = published.paper_row(published.same_pretraining(ROWS, MAE), method)
    assert row.mean_of_groups == pytest.approx(QUOTED_MAE[method], abs=0.05)


def test_the_304_cells_tuned_on_val200_give_their_published_means():
    tuned = [row for row in ROWS if row.selection == "last_epoch"]
    assert sum(len(row.accuracies) for row in tuned) == 304
    for row in tuned:
        assert set(row.printed) == set(published.MEANS)
        for name, mean in row.printed.items():
            assert row.means[name] == pytest.approx(mean, abs=0.05)


def test_only_known_misprints_are_flagged():
    flagged = {(row.name, row.pretraining, row.source[:6]) for row in ROWS if "M" in row.flags(row.checkpoint)}
    assert flagged == {
        ("Convpass", "in21k", "HyperA"), ("NOAH", "in21k", "PACE, "), ("VPT-Deep", "mae", "DA-VPT"),
        ("GateVPT", "mae", "DA-VPT"), ("Linear", "mae", "SNELL,"),
    }  # fmt: skip


def test_flags_say_what_makes_a_row_incomparable():
    rows = published.same_pretraining(ROWS, IN21K)
    assert published.paper_row(rows, "convpass").flags(IN21K) == "BJ"
    assert published.val_tuned_row(rows, "convpass").flags(IN21K) == "JN"
    assert published.paper_row(rows, "ssf").flags(IN21K) == "BC"
    assert published.paper_row(rows, "ssf").flags(AUGREG) == "B"
    assert published.same_pretraining(ROWS, "convnext_base.fb_in22k") == []


def test_a_cell_that_is_not_a_number_is_an_error(tmp_path):
    text = PUBLISHED.read_text(encoding="utf-8").replace("68.9,87.7", "68.9,many")
    (tmp_path / "published.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="many"):
        published.load(tmp_path / "published.csv", CONFIGS)
    assert published.load(tmp_path / "none.csv", CONFIGS) == {}


def test_our_rows_are_compared_with_the_papers_mean_and_the_tuned_one(tmp_path):
    shutil.copy(PUBLISHED, tmp_path)
    for task in TASKS:
        write_record_file(tmp_path, "backbone=vit_b16_in21k", "method=lora", f"task={task}", percent=76)
    write_record_file(tmp_path, "backbone=vit_b16_in21k", "method=moppa", "task=dtd")
    write_record_file(tmp_path, "backbone=vit_b16_in21k", "method=ssf", "task=dtd")
    output = write_tables(tmp_path, CONFIGS)
    rows = {row.method: row.references for row in output.tables[0].rows}
    assert rows["moppa"] == {}
    assert rows["lora"]["paper"].deviation == pytest.approx(76 - 74.60, abs=0.02)
    assert rows["lora"]["paper"].flags == "BJ"
    assert rows["lora"]["tuned"].deviation == pytest.approx(76 - 75.24, abs=0.02)
    assert rows["ssf"]["paper"].deviation is None  # our row is incomplete
    [text] = [path.read_text(encoding="utf-8") for path in output.written if path.suffix == ".md"]
    assert "74.6 BJ" in text
    assert "J JPEG lineage" in text
    assert "C another checkpoint" in text
    assert "V-PETL" in text


def test_there_are_no_published_rows_for_val200_and_other_image_sizes(tmp_path):
    shutil.copy(PUBLISHED, tmp_path)
    write_record_file(tmp_path, "backbone=vit_b16_in21k", "method=lora", "task=dtd", protocol="tune")
    write_record_file(tmp_path, "backbone=vit_b16_augreg", "backbone.image_size=112", "method=lora", "task=dtd")
    assert all(not table.published for table in write_tables(tmp_path, CONFIGS).tables)


def test_the_numbers_are_exactly_those_of_the_collection(shared):
    """The collection lists every published number with its source; the file was made from it."""
    with (shared / "vtab" / "published.csv").open(encoding="utf-8") as file:
        numbers = [(Fraction(x["accuracy"]), x["task"]) for x in csv.DictReader(file) if x["accuracy"] != "absent"]
    cells = sorted((value, task) for value, task in numbers if not task.startswith("mean"))
    assert cells == sorted((value, task) for row in ROWS for task, value in row.accuracies.items())
    means = sorted((value, task) for value, task in numbers if task.startswith("mean"))
    names = {"tasks": "19"}
    assert means == sorted((v, f"mean_{names.get(name, name)}") for row in ROWS for name, v in row.printed.items())


def test_the_304_cells_equal_those_of_the_study(shared):
    with (shared / "vtab" / "osu_best_tune.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for column, selection in (("last_epoch_acc", "last_epoch"), ("best_on_test_acc", "best_on_test")):
        rows = [row for row in ROWS if row.selection == selection and row.study == "OSU"]
        ours = sorted((round(value, 2), task) for row in rows for task, value in row.accuracies.items())
        assert ours == sorted(
            (round(Fraction(line[column]), 2), OSU_NAMES.get(line["task"], line["task"])) for line in lines
        )


def test_a_recipe_is_one_row_beside_the_published_row_at_which_it_aims(tmp_path):
    shutil.copy(ROOT / "results" / "published.csv", tmp_path / "published.csv")
    for task in ("caltech101", "svhn"):  # their learning rates differ
        write_record_file(tmp_path, "train=ssf", f"task={task}", percent=75)
    [table] = read_tables(tmp_path, CONFIGS)[0]
    assert [row.name for row in table.rows] == ["ssf"]
    assert "recipe ssf" in table.facts[0]
    assert float(table.rows[0].references["paper"].mean) == pytest.approx(75.69, abs=0.1)
    write_record_file(tmp_path, "train=ssf", "task=svhn", "train.lr=0.5", percent=70)
    names = [row.name for table in read_tables(tmp_path, CONFIGS)[0] for row in table.rows]
    assert names == ["ssf", "ssf (lr 0.5)"]
