"""Sequences of three small tasks from the command to the records: what is trained, resumed, evaluated and chosen."""

import json
import sys

import pytest

from moppa.cli import continual as cli
from moppa.cli import table
from moppa.continual.protocol import combinations, in_order, run_protocol, set_value
from moppa.record.trained_file import trained_path
from moppa.sweep.resolve import resolve_cell
from moppa.utils.errors import SettingError, UserError
from tests.conftest import CONFIGS, TOY, config_of

TASKS = ("eurosat", "diabetic_retinopathy", "svhn")
SIZES = ("task.num_train=64", "task.num_val=32", "task.num_test=48", "train.epochs=1", "train.lr=1e-2")
STRATEGIES = sorted(path.stem for path in (CONFIGS / "continual").glob("*.yaml"))


def cells_of(folder, protocol="final", tasks=TASKS):
    places = [f"run.results={folder / 'results'}", f"data.cache={folder / 'cache'}", f"protocol={protocol}"]
    return [resolve_cell(config_of(f"task={task}", *TOY[1:], *SIZES, *places, "method=lora")) for task in tasks]


def run(folder, *words, tasks=TASKS):
    """Runs a sequence and returns its steps."""
    [config] = cli.continual_configs(words)
    tune, final = (cells_of(folder, protocol, tasks) for protocol in ("tune", "final"))
    return list(run_protocol(tune, final, config, folder / "results"))


def test_a_sequence_is_trained_once_and_its_records_say_what_was_evaluated(tmp_path):
    steps = run(tmp_path, "continual=sequential", tasks=TASKS[:2])
    assert [list(step.record["correct"]) for step in steps] == [["eurosat"], ["eurosat", "diabetic_retinopathy"]]
    assert all(step.seconds is not None and step.path.is_file() for step in steps)
    assert steps[1].record["num_tasks"] == 2
    assert steps[1].record["total"] == {"eurosat": 48, "diabetic_retinopathy": 48}
    assert [step.seconds for step in run(tmp_path, "continual=sequential", tasks=TASKS[:2])] == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sequence_that_was_interrupted_goes_on_to_the_same_bytes(strategy, tmp_path):
    steps = run(tmp_path, f"continual={strategy}")
    before = [path.read_bytes() for step in steps for path in (step.path, trained_path(step.path))]
    steps[2].path.unlink()
    trained_path(steps[2].path).unlink()
    again = run(tmp_path, f"continual={strategy}")
    assert [step.seconds is None for step in again] == [True, True, False]
    assert [path.read_bytes() for step in again for path in (step.path, trained_path(step.path))] == before
    if strategy == "independent":
        correct = [step.record["correct"] for step in steps]
        assert correct[2] == {**correct[1], "svhn": correct[2]["svhn"]}


@pytest.mark.slow
def test_all_strategies_learn_the_first_task_alike(tmp_path):
    correct = {name: run(tmp_path, f"continual={name}", tasks=TASKS[:1])[0].record["correct"] for name in STRATEGIES}
    assert len({json.dumps(counts) for counts in correct.values()}) == 1


@pytest.mark.slow
def test_a_grid_is_chosen_on_val200(tmp_path):
    steps = run(tmp_path, "continual=sequential", "grid={train.lr:[1e-3,1e-2]}", tasks=TASKS[:2])
    assert [step.record["protocol"] for step in steps] == ["tune"] * 4 + ["final"] * 2
    search = steps[-1].record["config"]["search"]
    assert [candidate["settings"] for candidate in search] == [{"train.lr": 1e-3}, {"train.lr": 1e-2}]
    best = max(search, key=lambda candidate: candidate["accuracy"])
    assert steps[-1].record["train"]["lr"] == best["settings"]["train.lr"]
    assert steps[0].record["total"] == {"eurosat": 32}


@pytest.mark.slow
def test_lost_tensors_and_an_unsuitable_method_are_named(tmp_path):
    steps = run(tmp_path, "continual=sequential", tasks=TASKS[:2])
    steps[1].path.unlink()
    trained_path(steps[0].path).unlink()
    with pytest.raises(UserError, match=r"step1-seed0\.safetensors does not exist"):
        run(tmp_path, "continual=sequential", tasks=TASKS[:2])


@pytest.mark.slow
def test_the_command_runs_sequences_of_the_mini_suite_to_a_table(tmp_path, monkeypatch, capsys):
    words = [
        "continual=share,igsp_projection",
        "orders=[1]",
        "suite=mini",
        "task=mini/digits,mini/spots,mini/textures",
        "backbone=test_vit",
        "method=lora",
        "seed=0",
        "train.epochs=1",
        "train.epoch_images=48",
        f"run.results={tmp_path / 'results'}",
        f"data.cache={tmp_path / 'cache'}",
    ]
    monkeypatch.setattr(sys, "argv", ["continual", *words])
    assert cli.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.endswith(".json")]) == 6
    monkeypatch.setattr(sys, "argv", ["table", str(tmp_path / "results"), "--quiet"])
    assert table.main() == 0
    text = (tmp_path / "results" / "tables" / "continual-mini-test_vit-final.md").read_text()
    assert all(f"| lora: {name} " in text for name in ("share", "igsp_projection"))


def test_an_order_is_that_of_the_suite_or_drawn():
    cells = list("abcdef")
    assert in_order(cells, 0) == cells
    assert in_order(cells, 1) == in_order(cells, 1) != cells
    assert sorted(in_order(cells, 2)) == cells
    with pytest.raises(SettingError, match=r"^orders=-1: it must be an integer of at least 0"):
        in_order(cells, -1)


def test_a_grid_is_every_combination_and_a_slip_in_it_is_named():
    assert combinations({}) == [()]
    assert combinations({"alpha": [1, 2], "train.lr": [3]}) == [
        (("alpha", 1), ("train.lr", 3)),
        (("alpha", 2), ("train.lr", 3)),
    ]
    with pytest.raises(SettingError, match=r"^grid\.alpha=0\.5: it must be a list"):
        combinations({"alpha": 0.5})
    with pytest.raises(SettingError, match=r"there is no setting train\.rate"):
        set_value({"train": {"lr": 1}}, "train.rate", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["continual=none"], r"^continual='none': it must be one of .*igsp_projection, .*sequential"),
        (["continual=sequential", "orders=[]"], r"^orders=\[\]: it must be a list of numbers"),
    ],
)
def test_a_wrong_command_is_one_line(words, message):
    with pytest.raises(UserError, match=message):
        cli.continual_configs(words)


def test_what_a_command_must_name():
    with pytest.raises(UserError, match=r"no continual is chosen: add continual=sequential; `moppa continual --help`"):
        cli.split_words(["suite=mini", "method=lora"], cli.OWN)
    with pytest.raises(UserError, match=r"protocol=tune: a continual experiment takes cells of"):
        cli.split_words(["continual=opcm", "suite=mini", "method=lora", "protocol=tune"], cli.OWN)
