"""The gain of a row over its control."""

import pytest

from moppa.cli import gain
from tests.factories import write_record_file


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["moppa gain", *arguments])
    return gain.main(), capsys.readouterr()


@pytest.fixture
def results(tmp_path):
    for task, percents in {"mini/digits": (80.0, 70.0), "mini/spots": (60.0, 60.5)}.items():
        for setting, percent in zip(("method.attach.priors=[heat]", "+variant=moppa_control"), percents, strict=True):
            overrides = ["method=moppa", setting, f"task={task}", "backbone=vit_micro"]
            for seed in range(3):
                fields = {"seed": seed, "percent": percent + seed / 10, "predictions": True, "shift": seed}
                write_record_file(tmp_path, *overrides, **fields)
    return tmp_path


def test_the_gain_is_the_difference_by_task_with_its_interval(results, monkeypatch, capsys):
    names = ["moppa (priors heat)", "moppa (variant control)"]
    arguments = ["mini-vit_micro-final", *names, "--results", str(results), "--out", str(results)]
    drawn = {}
    monkeypatch.setattr(gain, "write_figure", lambda chart, path: drawn.update({path: chart}) or [])
    status, output = run(monkeypatch, capsys, *arguments)
    assert status == 0
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.out.splitlines()[2:4]]
    assert [row[:2] for row in rows] == [["Digits", "+10.0"], ["Spots", "-0.5"]]
    for row in rows:
        low, high = (float(limit) for limit in row[2].split(" to "))
        assert low < float(row[1]) < high
    assert float(rows[0][3]) < 0.05
    [(path, chart)] = drawn.items()
    assert path == results / "mini-vit_micro-final-gain"
    assert [value["gain"] for value in chart["data"]["values"]] == pytest.approx([10, -0.5], abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mini-vit_micro-tune", "moppa", "lora"], "no table 'mini-vit_micro-tune'; choose from mini-vit_micro-final"),
        (["mini-vit_micro-final", "moppa", "lora"], "has no row 'lora'"),
    ],
)
def test_an_unknown_table_or_row_is_reported(results, arguments, message, monkeypatch, capsys):
    status, output = run(monkeypatch, capsys, *arguments, "--results", str(results))
    assert status == 1
    assert message in output.err


def test_the_name_of_a_row_counts_before_that_of_a_method(tmp_path, monkeypatch, capsys):
    """The variant has fewer parameters, so its row comes first."""
    for overrides, percent, params in [(["+variant=moppa_control"], 40, 10), ([], 60, 20)]:
        write_record_file(
            tmp_path,
            *("method=moppa", "task=mini/digits", "backbone=vit_micro", *overrides),
            percent=percent,
            predictions=True,
            trainable_params=params,
        )
    status, output = run(
        monkeypatch, capsys, "mini-vit_micro-final", "moppa", "moppa (variant control)", "--results", str(tmp_path)
    )
    assert status == 0
    assert "| Digits | +19.9 |" in output.out
