"""The tasks of a suite: a slip in a YAML costs its own task, and a version of a suite has its own table."""

import shutil

import pytest

from moppa.report.build import read_tables, write_tables
from moppa.report.columns import read_tasks, suite_columns, suite_versions
from moppa.report.render.markdown import render_markdown
from tests.conftest import CONFIGS
from tests.factories import write_record_file

TASK = (CONFIGS / "task" / "dtd.yaml").read_text(encoding="utf-8")
SLIPS = {
    "a tab": ("name:\tnew\n", "cannot be read"),
    "nothing": ("", "holds no settings"),
    "a setting is missing": (TASK.replace("num_test:", "number:"), "lacks num_test"),
    "a word for a number": (TASK.replace("\ncolumn: ", "\ncolumn: at "), "column='at "),
    "a number for a word": (TASK.replace("\nsuite: ", "\nsuite: 1 #"), "suite=1: it must be a text"),
    "a version 0": (TASK + "suite_version: 0\n", "suite_version=0"),
    "no such group": (TASK.replace("\ngroup: ", "\ngroup: super"), "group='super"),
    "a list": ("- name: new\n", "holds no settings"),
}


@pytest.mark.parametrize(("content", "problem"), SLIPS.values(), ids=SLIPS)
def test_a_slip_in_one_yaml_is_one_line_that_names_it(content, problem, tmp_path):
    (tmp_path / "task" / "own").mkdir(parents=True)
    (tmp_path / "task" / "dtd.yaml").write_text(TASK, encoding="utf-8")
    (tmp_path / "task" / "own" / "new.yaml").write_text(content, encoding="utf-8")
    tasks, problems = read_tasks(tmp_path)
    assert [task["name"] for task in tasks] == ["dtd"]
    assert [column.task for column in suite_columns("vtab1k", tmp_path)] == ["dtd"]
    [line] = problems
    assert line.startswith(str(tmp_path / "task" / "own" / "new.yaml"))
    assert problem in line
    assert "\n" not in line


def test_records_of_a_suite_without_yamls_are_excluded_and_the_other_tables_are_written(tmp_path, capsys):
    configs, results = tmp_path / "configs", tmp_path / "results"
    (configs / "task").mkdir(parents=True)
    (configs / "task" / "dtd.yaml").write_text(TASK, encoding="utf-8")
    (configs / "task" / "unfinished.yaml").touch()
    write_record_file(results, "method=lora", "task=dtd")
    write_record_file(results, "method=lora", "task=mini/digits")
    tables, excluded = read_tables(results, configs)
    assert [table.suite for table in tables] == ["vtab1k"]
    [file] = excluded
    assert "belongs to the suite 'mini'" in file.reason
    assert capsys.readouterr().err.count("unfinished.yaml holds no settings") == 1
    assert len(write_tables(results, configs).written) == 4


def test_tasks_that_join_a_suite_have_a_table_of_their_own_and_leave_the_older_table_as_it_was(tmp_path):
    configs, results = tmp_path / "configs", tmp_path / "results"
    for folder in ("backbone", "method", "train"):
        shutil.copytree(CONFIGS / folder, configs / folder)
    (configs / "task" / "mini").mkdir(parents=True)
    for name in ("digits", "shapes_count", "pairs_direction"):
        shutil.copy(CONFIGS / "task" / "mini" / f"{name}.yaml", configs / "task" / "mini")
    versions = suite_versions("mini", configs)
    assert {name: [column.task for column in columns] for name, columns in versions.items()} == {
        "mini": ["digits", "shapes_count"],
        "mini_v2": ["digits", "shapes_count", "pairs_direction"],
    }

    for task, percent in {"digits": 60, "shapes_count": 50}.items():
        for method in ("linear", "lora"):
            write_record_file(results, f"method={method}", f"task=mini/{task}", "backbone=vit_micro", percent=percent)
    [before] = read_tables(results, configs)[0]
    write_record_file(results, "method=lora", "task=mini/pairs_direction", "backbone=vit_micro", percent=10)
    [mini, mini_v2], excluded = read_tables(results, configs)
    assert excluded == []
    assert (mini.name, mini_v2.name) == ("mini-vit_micro-final", "mini_v2-vit_micro-final")
    assert render_markdown(mini) == render_markdown(before)

    def means(table):
        return {row.name: row.values["mean_tasks"].mean for row in table.rows}

    assert means(mini)["linear"] == means(mini)["lora"] == pytest.approx(55, abs=0.1)
    assert means(mini_v2)["linear"] is None
    assert means(mini_v2)["lora"] == pytest.approx(40, abs=0.1)
    assert {row.name: row.marks for row in mini_v2.rows} == {"linear": "†", "lora": ""}


def test_records_of_new_tasks_alone_and_of_no_task_have_one_table(tmp_path):
    pair = ("method=lora", "task=mini/pairs_direction", "backbone=vit_micro")
    write_record_file(tmp_path, *pair)
    [table] = read_tables(tmp_path, CONFIGS)[0]
    assert (table.suite, len(table.columns)) == ("mini_v2", 10)
    write_record_file(tmp_path, *pair, "task.name=nosuch")
    [table], excluded = read_tables(tmp_path, CONFIGS)
    assert "defines its task nosuch of the suite mini" in excluded[0].reason
    shutil.rmtree(tmp_path / "records" / "mini" / "vit_micro" / "pairs_direction")
    [table] = read_tables(tmp_path, CONFIGS)[0]
    assert (table.suite, table.rows) == ("mini", [])
