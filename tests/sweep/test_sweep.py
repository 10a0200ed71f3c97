"""Plan, status and retry; backbones that a process reuses; a search that cannot optimize the test set."""

import copy
import io
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra.errors import HydraException
from rich.console import Console

from moppa.backbone.model import compute_weights_sha256, load_pretrained
from moppa.record.cell import cell_from_config
from moppa.record.schema import read_record, without_entries
from moppa.record.write import MEASURED
from moppa.sweep.cost import NUM_CLASSES, Throughput, cell_flops, flops_per_image
from moppa.sweep.expand import expand_cells
from moppa.sweep.plan import current_state, plan_cells, plan_summary
from moppa.sweep.status import State
from moppa.sweep.status_table import CellFiles, cell_states, find_cells, status_view
from moppa.sweep.worker import lease
from moppa.train.checkpoint import Checkpoint
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.provenance import code_state
from run import run_cell
from tests.conftest import CONFIGS, ROOT, TOY, config_of
from tests.run_script import script


def overrides_in(folder, *overrides):
    return [*TOY, f"run.results={folder / 'results'}", f"data.cache={folder / 'cache'}", *overrides]


def cell_in(folder, *overrides):
    config = config_of(*overrides_in(folder, *overrides))
    return cell_from_config(config, weights_sha256=compute_weights_sha256(instantiate(config, "backbone")))


def rendered(renderable):
    console = Console(width=200, record=True, quiet=False, file=sys.stderr)
    console.print(renderable)
    return console.export_text()


@pytest.fixture
def halfway(tmp_path, monkeypatch):
    """A sweep with a cell that is done, one that failed, one to resume and one that is running."""
    run_cell(config_of(*overrides_in(tmp_path, "method=linear", "seed=0")))
    with monkeypatch.context() as context:
        context.setattr("moppa.utils.logistic.MAX_ITERATIONS", 1)
        with pytest.raises(UserError):
            run_cell(config_of(*overrides_in(tmp_path, "method=linear", "seed=1")))
    stopped = cell_in(tmp_path, "method=linear", "seed=2")
    Checkpoint(path=stopped.checkpoint, epochs=1, code=code_state()).write({"step": 1})
    with lease(cell_in(tmp_path, "method=linear", "seed=3")):
        yield tmp_path


def test_a_plan_lists_every_state_and_the_cost(halfway):
    cells = plan_cells(CONFIGS, overrides_in(halfway, "method=linear", "seed=0,1,2,3,4"))
    states = [current_state(cell, code_state()) for cell in cells]
    assert [state.name for state in states] == ["done", "failed", "resumable", "running", "missing"]
    assert "has not converged" in states[1].note
    text = rendered(plan_summary(cells))
    assert "5 cells: 1 done, 0 stale, 1 running, 1 resumable, 1 failed, 1 missing" in text
    assert "the same method" in text


def test_a_record_of_other_versions_is_stale_and_a_checkpoint_of_other_code_does_not_count(halfway):
    cells = plan_cells(CONFIGS, overrides_in(halfway, "method=linear", "seed=0,2"))
    code = copy.deepcopy(code_state())
    code["versions"]["torch"] = "1.0"
    states = [current_state(cell, code) for cell in cells]
    assert [state.name for state in states] == ["stale", "missing"]
    assert "torch" in states[0].note
    assert "from other code" in states[1].note


def test_status_shows_the_counts_and_the_last_line_of_a_failure(halfway):
    done = script("sweep", "status", "--once", "--results", halfway / "results", columns=200)
    assert done.returncode == 0, done.stderr
    assert "4 cells: 1 done, 0 stale, 1 running, 1 resumable, 1 failed, 0 missing" in done.stdout
    assert "failed: test_vit linear eurosat" in done.stdout
    assert "has not converged" in done.stdout


def test_a_worker_that_was_killed_before_its_first_checkpoint_is_a_failure(tmp_path):
    cell = cell_in(tmp_path, "method=linear")
    cell.lease.parent.mkdir(parents=True)
    cell.lease.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=t\nduration=60.0\n")
    os.utime(cell.lease, (time.time() - 1000,) * 2)
    [(_, state)] = cell_states(find_cells(tmp_path / "results"), None)
    assert (state.name, state.note) == ("failed", "killed: process 1 on elsewhere ended without an error message")


def test_a_plan_without_weights_or_tuning_still_counts_operations(tmp_path):
    cells = plan_cells(CONFIGS, overrides_in(tmp_path, "method=linear", "hparams=best"))
    assert "nothing was tuned" in current_state(cells[0], code_state()).note
    cells = plan_cells(CONFIGS, overrides_in(tmp_path, "method=linear", "backbone.weights=/none.pth"))
    assert "the weights are not available" in current_state(cells[0], code_state()).note
    text = rendered(plan_summary(cells))
    assert "No record was measured on this device" in text
    assert "?" in text


def test_wrong_overrides_are_named():
    for overrides, message in (
        (["+sweep=none"], "sweep/none"),
        (["method=linear,lora", "task=dtd", "method.attach.rnk=1,2"], "rnk"),
        (["task=dtd", "train.lr=interval(0,1)"], "no fixed number of cells"),
    ):
        with pytest.raises((HydraException, UserError), match=message):
            expand_cells(CONFIGS, overrides)
    done = script("sweep", "retry", columns=200)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "needs the overrides" in done.stderr


@pytest.mark.slow
def test_retry_runs_failed_and_missing_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("moppa.utils.logistic.MAX_ITERATIONS", 1)
    with pytest.raises(UserError):
        run_cell(config_of(*overrides_in(tmp_path, "method=linear", "seed=1")))
    overrides = overrides_in(tmp_path, "method=linear", "seed=0,1")
    done = script("sweep", "retry", *overrides, columns=200)
    assert done.returncode == 0, done.stderr
    assert "1 failed, 1 missing" in done.stdout
    assert "2 cells: 2 done" in script("sweep", "status", *overrides, columns=200).stdout
    assert not list(tmp_path.rglob("*.failed"))


@pytest.mark.slow
def test_the_status_of_ten_thousand_records_takes_under_five_seconds_of_one_core(toy, tmp_path):
    run_cell(config_of(*toy, "method=linear"))
    [path] = (tmp_path / "results" / "records").rglob("seed0.json")
    text = path.read_text()
    for task in range(20):
        for method in range(50):
            folder = tmp_path / "many" / "records" / "suite" / "backbone" / f"task{task}" / f"method{method}" / "key"
            folder.mkdir(parents=True)
            for seed in range(10):
                (folder / f"seed{seed}.json").write_text(text)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = script("sweep", "status", "--results", tmp_path / "many", columns=200, measured=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert "10000 cells: 10000 done" in done.stdout
    assert seconds < 5


def test_operations_equal_the_formula_for_a_vision_transformer():
    """Per block 8 N d^2 + 4 N^2 d for the attention, 4 N d h for the MLP, h = 3 d here; 2 N p^2 3 d for the patches."""
    config = expand_cells(CONFIGS, ["task=dtd", "method=linear", "backbone=test_vit"])[0]
    backbone = {name: value for name, value in config["backbone"].items() if name not in ("_target_", "weights")}
    training, evaluation = flops_per_image(json.dumps(backbone), json.dumps(config["method"]["attach"]))
    width, patches, blocks = 64, 4, 6
    tokens = patches + 1
    expected = blocks * (tokens * (8 + 4 * 3) * width**2 + 4 * tokens**2 * width)
    expected += patches * 2 * 16 * 16 * 3 * width + 2 * width * NUM_CLASSES
    assert evaluation == pytest.approx(expected, rel=0.02)
    assert training == pytest.approx(evaluation, rel=0.01)
    config["method"]["attach"] = expand_cells(CONFIGS, ["task=dtd", "method=bitfit"])[0]["method"]["attach"]
    training, _ = flops_per_image(json.dumps(backbone), json.dumps(config["method"]["attach"]))
    assert 1.7 < training / evaluation < 2.1


def test_operations_count_every_image_and_hours_follow_the_most_similar_record():
    def flops(*overrides):
        return cell_flops(expand_cells(CONFIGS, ["task=eurosat", "method=linear", "backbone=test_vit", *overrides])[0])

    final, longer, best_on_test = flops(), flops("train.epochs=200"), flops("protocol=best_on_test")
    assert longer / final == pytest.approx(205_400 / 105_400, rel=1e-3)  # images through a frozen model
    assert best_on_test / final == pytest.approx((100_000 + 11 * 5400) / 105_400, rel=1e-3)

    config = expand_cells(CONFIGS, ["task=eurosat", "method=linear", "backbone=test_vit"])[0]
    measured = {
        "config": config,
        "device": {"type": "cpu", "name": "here", "threads": 1},
        "seconds": {"train": 90.0, "evaluate": 10.0},
    }
    throughput = Throughput([measured], {"type": "cpu", "name": "here"})
    assert throughput.predict_seconds(config, cell_flops(config)) == (pytest.approx(100.0), "the same method")
    other = expand_cells(CONFIGS, ["task=eurosat", "method=lora", "backbone=test_vit"])[0]
    assert throughput.predict_seconds(other, 2 * cell_flops(config)) == (pytest.approx(200.0), "the same backbone")
    assert Throughput([measured], {"type": "cuda", "name": "there"}).predict_seconds(config, 1.0) is None


@pytest.mark.parametrize(
    "methods",
    [
        pytest.param(methods, marks=pytest.mark.slow)
        for methods in (["lora", "full"], ["full", "moppa"], ["full", "linear"])
    ],
    ids="-".join,
)
def test_a_second_cell_in_a_process_gives_the_same_bytes_as_alone(methods, toy, tmp_path):
    """The backbone is loaded once per process; `full` trains all of it, and merging LoRA writes into it."""

    def outcome(folder):
        [path] = (tmp_path / folder / "records").glob(f"*/*/*/{methods[-1]}/*/seed0.json")
        [trained] = (tmp_path / folder / "checkpoints").glob(f"*/*/*/{methods[-1]}/*/seed0.safetensors")
        record = read_record(path)
        record["config"].pop("run")
        text = json.dumps(without_entries(record, MEASURED))
        return text, path.with_suffix(".npz").read_bytes(), trained.read_bytes()

    for method in methods:
        run_cell(config_of(*toy, f"method={method}", f"run.results={tmp_path / 'after'}"))
    load_pretrained.cache_clear()
    run_cell(config_of(*toy, f"method={methods[-1]}", f"run.results={tmp_path / 'alone'}"))
    assert outcome("after") == outcome("alone")


def test_a_process_loads_its_backbone_once_and_hands_out_copies(toy, monkeypatch):
    built = []
    create = type(instantiate(config_of("task=dtd", "backbone=test_vit"), "backbone")).create_model
    monkeypatch.setattr(
        "moppa.backbone.model.Backbone.create_model",
        lambda self, **kwargs: built.append(kwargs) or create(self, **kwargs),
    )
    backbone = instantiate(config_of("task=dtd", "backbone=test_vit", "backbone.image_size=48"), "backbone")
    first, second = (backbone.build(num_classes=3, drop_path=0.0, generator=torch.Generator()) for _ in range(2))
    assert len(built) == 1
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert all(parameter.any() for name, parameter in second.named_parameters() if name.endswith("qkv.weight"))


@pytest.mark.slow
def test_a_search_optimizes_val200_resumes_from_its_storage_and_cannot_optimize_the_test_set(tmp_path):
    pytest.importorskip("optuna")

    def search(*overrides):
        command = [sys.executable, "run.py", "-m", *overrides_in(tmp_path, *overrides), "hydra/sweeper=optuna"]
        more = ["hydra.sweeper.direction=maximize", "hydra.sweeper.n_jobs=1", "hydra.sweeper.study_name=rates"]
        more += [f"hydra.sweeper.storage=sqlite:///{tmp_path / 'search.db'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run([*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True)

    space = ["method=linear", "train.lr=tag(log, interval(1e-5, 1e-1))"]
    for _ in range(2):
        done = search(*space, "protocol=tune", "hydra.sweeper.n_trials=2")
        assert done.returncode == 0, done.stderr[-3000:]
    import optuna

    study = optuna.load_study(study_name="rates", storage=f"sqlite:///{tmp_path / 'search.db'}")
    assert len(study.trials) == 4
    records = [read_record(path) for path in (tmp_path / "results" / "records").rglob("seed0.json")]
    accuracies = {record["config"]["train"]["lr"]: record["correct"] / 200 for record in records}
    for trial in study.trials:
        assert accuracies[trial.params["train.lr"]] == trial.value
    done = search(*space, "protocol=final", "hydra.sweeper.n_trials=1")
    assert done.returncode == 1
    assert "a search with protocol=final: settings are chosen on val200" in done.stderr


@pytest.mark.parametrize("num_methods", [2, 24])
def test_status_tables_fit_eighty_columns_and_name_every_state(num_methods):
    tasks = [path.stem for path in (CONFIGS / "task").glob("*.yaml")]
    methods = [f"method_number_{index}" for index in range(num_methods)]
    names = ("done", "running", "resumable", "stale", "failed", "missing")
    states = [
        (
            CellFiles(suite="vtab1k", backbone="vit", task=task, method=method, record=Path(), checkpoint=Path()),
            State(name=name),
        )
        for task in tasks
        for method in methods
        for name in names
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(status_view(states, num_failures=0, width=80))
    text = console.file.getvalue()
    assert {name for name in (*tasks, *methods) if name not in text} == set()
    assert text.count("1/6 1s 1r 1c 1f") == len(tasks) * num_methods  # no cell is folded
    assert "s stale, r running, c resumable, f failed" in text
