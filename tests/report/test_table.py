"""The numbers, rows, marks and captions of tables."""

import shutil
import subprocess
import sys

import pytest

from moppa.report.build import write_tables
from tests.conftest import CONFIGS, ROOT, config_of
from tests.factories import write_record_file
from tests.test_configs import TASKS


def read_table(results):
    """Writes the only table and returns its caption with its notes, and its rows as {row: {column: text}}."""
    path = write_markdown(results)[0]
    _, *lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    caption = " ".join(line for line in lines if not line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return caption, {row[0].rstrip(" †‡§"): dict(zip(cells[0][1:], row[1:], strict=True)) for row in cells[2:]}


def write_markdown(results):
    """Writes all tables and returns the paths of the Markdown files."""
    return [path for path in write_tables(results, CONFIGS).written if path.suffix == ".md"]


def test_a_missing_cell_is_shown_as_missing_and_its_means_are_withheld(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=eurosat", percent=89.9)
    _, rows = read_table(tmp_path)
    [row] = rows.values()
    assert row.pop("EuroSAT") == "89.9"
    assert row.pop("Parameters (M)") == "0.295"
    assert row.pop("With head (M)") == "0.303"
    assert row.pop("Settings tried") == "given"
    assert len(row) == 18 + 3 + 2
    assert set(row.values()) == {"–"}


def test_a_complete_row_has_the_three_group_means_and_both_averages(tmp_path):
    percent = {"natural": 90, "specialized": 60, "structured": 30}
    for task in TASKS:
        group = config_of(f"task={task}").task.group
        write_record_file(tmp_path, "method=lora", f"task={task}", percent=percent[group])
    _, rows = read_table(tmp_path)
    row = rows["lora"]
    assert list(row)[7] == "**Natural**"
    assert [row[f"**{group}**"] for group in ("Natural", "Specialized", "Structured")] == ["90.0", "60.0", "30.0"]
    assert row["**Mean of groups**"] == "60.0"
    assert row["**Mean of 19**"] == f"{(7 * 90 + 4 * 60 + 8 * 30) / 19:.1f}"


def test_a_missing_task_withholds_only_the_mean_of_its_group_and_the_averages(tmp_path):
    for task in TASKS:
        if task != "kitti":
            write_record_file(tmp_path, "method=lora", f"task={task}")
    _, rows = read_table(tmp_path)
    means = {name: text for name, text in rows["lora"].items() if name.startswith("**")}
    assert means == {
        "**Natural**": "80.0",
        "**Specialized**": "80.0",
        "**Structured**": "–",
        "**Mean of groups**": "–",
        "**Mean of 19**": "–",
    }


def test_seeds_share_a_row_with_mean_and_standard_deviation(tmp_path):
    for seed, percent in enumerate((78, 80, 82)):
        write_record_file(tmp_path, "method=lora", "task=dtd", seed=seed, percent=percent)
    caption, rows = read_table(tmp_path)
    assert rows["lora"]["DTD"] == "80.0 ± 2.0"
    assert "Seeds 0, 1, 2" in caption


def test_another_setting_of_a_method_has_its_own_row_named_by_the_differences(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd", percent=70)
    write_record_file(tmp_path, "method=lora", "task=dtd", "method.attach.rank=4", percent=60)
    write_record_file(
        tmp_path, "method=lora", "task=dtd", "method.attach.rank=4", "method.attach.targets=[q,k]", percent=50
    )
    _, rows = read_table(tmp_path)
    assert {name: row["DTD"] for name, row in rows.items()} == {
        "lora": "70.0",
        "lora (rank 4)": "60.0",
        "lora (rank 4, targets q+k)": "50.0",
    }


def test_shared_settings_are_in_the_caption_and_others_in_the_name_of_the_row(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd", "train.epochs=20", "train.lr=0.01")
    write_record_file(tmp_path, "method=linear", "task=dtd", "train.epochs=20")
    caption, rows = read_table(tmp_path)
    assert "epochs 20" in caption
    assert "lr" not in caption
    assert set(rows) == {"linear", "lora (lr 0.01)"}


def test_lineages_and_weights_are_never_mixed_in_a_row(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd", percent=80)
    write_record_file(tmp_path, "method=lora", "task=dtd", "data=noah", lineage="noah_jpeg", percent=70)
    write_record_file(tmp_path, "method=lora", "task=dtd", weights="x" * 64, percent=60)
    _, rows = read_table(tmp_path)
    assert sorted(row["DTD"] for row in rows.values()) == ["60.0", "70.0", "80.0"]
    assert any("data lineage noah_jpeg" in name for name in rows)


def test_a_method_run_on_both_lineages_has_a_row_for_each_and_no_mean_over_both(tmp_path):
    jpeg_tasks = ("kitti", "dtd")
    for task in TASKS:
        if task in jpeg_tasks:
            write_record_file(tmp_path, "method=lora", f"task={task}", "data=noah", percent=10)
        else:
            write_record_file(tmp_path, "method=lora", f"task={task}", percent=90)
    write_record_file(tmp_path, "method=lora", "task=eurosat", "data=noah", lineage="noah_jpeg", seed=1, percent=10)
    caption, rows = read_table(tmp_path)
    assert set(rows) == {"lora (data lineage tfds)", "lora (data lineage noah_jpeg)"}
    assert "lineage" not in caption  # the rows share no lineage
    tfds, noah = rows["lora (data lineage tfds)"], rows["lora (data lineage noah_jpeg)"]
    assert (tfds["EuroSAT"], noah["EuroSAT"]) == ("90.0", "10.0")  # two seeds, and no mean of the two
    assert (tfds["DTD"], noah["DTD"]) == ("–", "10.0")
    assert tfds["**Specialized**"] == "90.0"
    assert (tfds["**Natural**"], tfds["**Mean of 19**"]) == ("–", "–")
    assert (noah["**Specialized**"], noah["**Natural**"]) == ("–", "–")


def test_each_protocol_and_backbone_has_its_own_table(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd")
    write_record_file(tmp_path, "method=lora", "task=dtd", protocol="tune")
    write_record_file(tmp_path, "method=lora", "task=dtd", "backbone=vit_b16_in21k")
    assert [path.name for path in write_markdown(tmp_path)] == [
        "vtab1k-vit_b16_in21k-final.md",
        "vtab1k-vit_b16_mae-final.md",
        "vtab1k-vit_b16_mae-tune.md",
    ]


def test_the_same_records_give_the_same_bytes_in_every_format(tmp_path):
    for method in ("lora", "linear", "moppa"):
        write_record_file(tmp_path, f"method={method}", "task=dtd")
    paths = write_tables(tmp_path, CONFIGS).written
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_tables(tmp_path, CONFIGS).written] == first
    assert len(first) == 4
    assert list(read_table(tmp_path)[1]) == ["linear", "moppa", "lora"]


def test_a_row_is_marked_if_tasks_are_missing_or_its_cells_have_different_seeds(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd")
    write_record_file(tmp_path, "method=lora", "task=dtd", seed=1)
    write_record_file(tmp_path, "method=lora", "task=svhn")
    [row] = write_tables(tmp_path, CONFIGS).tables[0].rows
    assert row.marks == "†§"
    assert row.values["dtd"].num_seeds == 2
    assert row.values["mean_natural"].mean is None


def test_a_mean_has_a_standard_deviation_only_if_all_its_tasks_have_the_same_seeds(tmp_path):
    for task in TASKS:
        for seed, percent in ((0, 70), (1, 72)):
            if (task, seed) != ("kitti", 1):
                write_record_file(tmp_path, "method=lora", f"task={task}", seed=seed, percent=percent)
    [row] = write_tables(tmp_path, CONFIGS).tables[0].rows
    assert row.values["mean_natural"].sd == pytest.approx(2**0.5, abs=0.02)
    assert row.values["mean_structured"].mean is not None
    assert row.values["mean_structured"].sd is None
    assert row.values["mean_tasks"].sd is None


def test_removing_a_record_changes_only_the_numbers_computed_from_it(tmp_path):
    paths = [
        write_record_file(tmp_path, f"method={method}", f"task={task}")
        for method in ("lora", "linear")
        for task in ("dtd", "svhn")
    ]
    before = write_tables(tmp_path, CONFIGS).tables[0]
    paths[0].unlink()
    after = write_tables(tmp_path, CONFIGS).tables[0]
    assert before.digest != after.digest
    assert before.rows[0].values == after.rows[0].values
    changed = {key for key, value in before.rows[1].values.items() if after.rows[1].values[key] != value}
    assert changed == {"dtd"}


def write_seeds(results, *overrides, percent, **fields):
    """Writes three seeds whose accuracies differ by 0.2 points."""
    for seed in range(3):
        write_record_file(results, *overrides, seed=seed, percent=percent + 0.2 * (seed - 1), shift=9 * seed, **fields)


def test_best_and_second_are_marked_only_if_significant_on_the_same_images(tmp_path):
    for method, percent in (("lora", 80), ("moppa", 70), ("linear", 40)):
        write_seeds(tmp_path, f"method={method}", "task=dtd", percent=percent, predictions=True)
        svhn = 80 + (method == "lora") * 0.01
        write_seeds(tmp_path, f"method={method}", "task=svhn", percent=svhn, predictions=True)
        write_seeds(tmp_path, f"method={method}", "task=eurosat", percent=percent)  # without predictions
    rows = {row.method: row for row in write_tables(tmp_path, CONFIGS).tables[0].rows}
    marks = {name: [row.values[task].mark for task in ("dtd", "svhn", "eurosat")] for name, row in rows.items()}
    assert marks == {"lora": ["best", "", ""], "moppa": ["second", "", ""], "linear": ["", "", ""]}


def test_a_mean_is_marked_only_if_its_tasks_together_are_significant(tmp_path):
    for task in TASKS:
        for method, percent in (("lora", 70), ("moppa", 69.9 if task != "dtd" else 10)):
            write_seeds(tmp_path, f"method={method}", f"task={task}", percent=percent, predictions=True)
    rows = {row.method: row for row in write_tables(tmp_path, CONFIGS).tables[0].rows}
    marked = {key for key, value in rows["lora"].values.items() if value.mark}
    assert marked >= {"dtd", "mean_natural", "mean_groups", "mean_tasks"}
    assert not any(value.mark for value in rows["moppa"].values.values())


def test_rows_of_two_lineages_are_not_ranked_against_each_other(tmp_path):
    write_seeds(tmp_path, "method=lora", "task=dtd", percent=90, predictions=True)
    noah = ("data=noah",)
    write_seeds(tmp_path, "method=lora", "task=dtd", *noah, lineage="noah_jpeg", percent=50, predictions=True)
    assert {row.values["dtd"].mark for row in write_tables(tmp_path, CONFIGS).tables[0].rows} == {""}


def test_settings_tuned_on_val200_for_each_task_are_one_row(tmp_path):
    tuned = {"val200": 0.8, "num_settings": 4}
    write_record_file(tmp_path, "method=lora", "task=dtd", "train.lr=0.01", tuned=tuned)
    write_record_file(
        tmp_path, "method=lora", "task=svhn", "method.attach.rank=4", tuned=tuned, trainable_params=147456
    )
    write_record_file(tmp_path, "method=lora", "task=svhn", tuned=None)
    rows = {row.name: row for row in write_tables(tmp_path, CONFIGS).tables[0].rows}
    assert set(rows) == {"lora", "lora (settings tuned on val200)"}
    assert set(rows["lora (settings tuned on val200)"].records_by_task) == {"dtd", "svhn"}
    assert rows["lora (settings tuned on val200)"].params == (294912 + 147456) / 2


def test_a_class_that_moved_to_another_module_has_the_same_row(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd", "method.attach._target_=elsewhere.lora.attach")
    write_record_file(
        tmp_path, "method=lora", "task=svhn", "train._target_=elsewhere.Recipe", "backbone._target_=elsewhere.Backbone"
    )
    [row] = write_tables(tmp_path, CONFIGS).tables[0].rows
    assert row.name == "lora"
    assert set(row.records_by_task) == {"dtd", "svhn"}


def test_each_suite_has_its_own_table_and_its_own_published_rows(tmp_path):
    configs = tmp_path / "configs"
    shutil.copytree(CONFIGS, configs)
    text = (CONFIGS / "task" / "dtd.yaml").read_text(encoding="utf-8")
    for old, new in {"suite: vtab1k": "suite: other", "name: dtd": "name: drawn", "title: DTD": "title: Drawn"}.items():
        text = text.replace(old, new)
    (configs / "task" / "mini" / "drawn.yaml").write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "results" / "published.csv", tmp_path)
    lora = ("method=lora", "task=dtd", "backbone=vit_b16_in21k")
    write_record_file(tmp_path, *lora)
    write_record_file(tmp_path, *lora, "task.suite=other", "task.name=drawn", "task.title=Drawn")
    other, vtab = write_tables(tmp_path, configs).tables
    assert [column.title for column in other.columns] == ["Drawn"]
    assert float(other.rows[0].values["mean_groups"].mean) == pytest.approx(80, abs=0.05)
    assert not other.published
    assert vtab.published
    assert [row.values["dtd"].num_seeds for row in vtab.rows] == [1]


def test_tables_import_neither_torch_nor_plotting_libraries():
    names = ("torch", "timm", "matplotlib", "scipy", "vl_convert", "hydra")
    code = (
        f"import sys, moppa.report.build, moppa.report.render.terminal; print([n for n in {names} if n in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.strip() == "[]", process.stderr


def test_the_backbone_has_a_column_only_if_a_method_drops_a_part_of_it(tmp_path):
    whole = {"pretrained": 85_798_656, "kept": 85_798_656}
    write_record_file(tmp_path, "method=ssf", "task=dtd")  # an old record, without the number
    write_record_file(tmp_path, "method=lora", "task=dtd", backbone_params=whole)
    assert "Backbone (M)" not in read_table(tmp_path)[1]["lora"]
    dropped = {**whole, "kept": 43_331_328}
    write_record_file(tmp_path, "method=bitfit", "task=dtd", backbone_params=dropped)
    rows = read_table(tmp_path)[1]
    assert {name: row["Backbone (M)"] for name, row in rows.items()} == {
        "bitfit": "43.331",
        "ssf": "85.799",
        "lora": "85.799",
    }
    [csv] = (tmp_path / "tables").glob("*.csv")
    lines = [line.split(",") for line in csv.read_text().splitlines()]
    column = lines[0].index("backbone_params")
    assert [line[column] for line in lines[1:4]] == ["43331328", "85798656", "85798656"]
