"""The tasks of a suite: a YAML that cannot be read costs its own task; records of a suite without YAMLs are named."""

import pytest

from moppa.report.build import read_tables, write_tables
from moppa.report.columns import read_tasks, suite_columns
from tests.conftest import CONFIGS
from tests.factories import write_record_file

TASK = (CONFIGS / "task" / "dtd.yaml").read_text(encoding="utf-8")
SLIPS = {
    "a tab": ("name:\tnew\n", "cannot be read"),
    "nothing": ("", "holds no settings"),
    "a setting is missing": (TASK.replace("num_test:", "number:"), "lacks num_test"),
    "a word for a number": (TASK.replace("\ncolumn: ", "\ncolumn: at "), "column='at "),
    "a number for a word": (TASK.replace("\nsuite: ", "\nsuite: 1 #"), "suite=1: it must be a text"),
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
