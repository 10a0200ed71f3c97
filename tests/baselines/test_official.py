"""The methods compute what their authors' code computed, to rounding in float64."""

import sys

import pytest

from moppa.bench.official import Reference, measure, read_cases
from moppa.cli import official
from moppa.utils.errors import UserError
from tests.conftest import QUICK_METHODS

CASES = read_cases()
LIMIT = 1e-10  # the largest error that was measured is 8e-13


@pytest.fixture(scope="module")
def reference(shared):
    path = shared / "vectors" / "official_methods.npz"
    if not path.is_file():
        pytest.skip(f"needs {path}, what the authors' code computed, which is not distributed")
    return Reference(path)


def slow_unless_quick(case):
    """Returns the parameter of a case of the authors' code."""
    marks = [] if case["method"] in QUICK_METHODS else pytest.mark.slow
    return pytest.param(case, id=f"{case['case']}-{case['method']}", marks=marks)


@pytest.mark.parametrize("case", [slow_unless_quick(case) for case in CASES])
def test_logits_and_input_gradients_are_those_of_the_authors_code(case, reference):
    errors = measure(case, reference)
    assert max(errors.values()) < LIMIT, errors


def test_every_case_is_compared_and_its_committed_error_is_small(reference):
    assert [case["case"] for case in CASES] == list(reference.index)
    for case in CASES:
        theirs = reference.index[case["case"]]
        assert (case["source"], case["compared_with"]) == (theirs["source"], theirs["name"])
        assert 0 <= float(case["logits"]) < LIMIT
        assert 0 <= float(case["input_gradient"]) < LIMIT


@pytest.mark.parametrize(
    ("case", "settings"),
    [("case03", "mlp_cores=sliced"), ("case12", "reads=after_norm"), ("case26", "pool_prompts=false")],
)
def test_another_value_of_a_switch_computes_something_else(case, settings, reference):
    row = next(row for row in CASES if row["case"] == case)
    errors = measure(row | {"settings": f"{row['settings']} {settings}"}, reference)
    assert errors["logits"] > 1e-2


def test_a_missing_file_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moppa official", str(tmp_path / "none.npz")])
    assert official.main() == 1
    assert "none.npz: no such file; it holds what the authors' code computed" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"none\.csv: no such file; the cases are part of a checkout"):
        read_cases(tmp_path / "none.csv")
