"""The search over composed methods: its space, its two objectives, and the final cell of one of its points."""

import json
import os
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from moppa.cli.count import count_on
from moppa.record.schema import read_record
from moppa.sweep import select_hparams
from moppa.sweep.expand import count_cells
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, ROOT, TOY, config_of

LAYERS = "method.attach.layers=[true,true,true,true,true,true]"


def space():
    """Returns the choices of each setting that +sweep=autopeft searches, as overrides."""
    sweep = OmegaConf.load(CONFIGS / "sweep" / "autopeft.yaml")
    assert OmegaConf.to_container(sweep.method.attach.layers) == [True] * 6
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in sweep.hydra.sweeper.params.items()])
    return {each.key_or_group: [str(choice) for choice in each.sweep_string_iterator()] for each in parsed}


def params_of(choices):
    """Returns the parameters that autopeft trains on vit_micro with these choices."""
    words = [f"{name}={choice}" for name, choice in choices.items()]
    return count_on(config_of("task=mini/digits", "backbone=vit_micro", "method=autopeft", LAYERS, *words))[0][
        "trainable_params"
    ]


def test_every_choice_of_the_search_is_a_setting_of_autopeft():
    choices = space()
    largest = {
        name: next((all_of for all_of in ("True", "null") if all_of in values), values[-1])
        for name, values in choices.items()
    }
    dim, depth = 192, 6
    adapter, lora, prefix = 2 * dim * 8 + dim + 8, 2 * 2 * dim * 8, 10 * 2 * dim
    assert params_of(largest) == depth * (2 * adapter + lora + prefix)
    off = "[]"
    assert params_of(largest | {"method.attach.methods.lora.layers": off}) == depth * (2 * adapter + prefix)
    fewer = largest | {"method.attach.layers.0": "False", "method.attach.layers.5": "False"}
    assert params_of(fewer) == (depth - 2) * (2 * adapter + lora + prefix)
    assert off in choices["method.attach.methods.serial.layers"]
    nothing = {name: off for name in choices if name.endswith(".layers")}
    assert params_of(largest | nothing) == 0


class Sweeper:
    """Hydra's node of a search."""

    _target_ = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"

    def __init__(self, direction):
        self.direction = direction


@pytest.mark.parametrize(
    ("direction", "protocol", "message"),
    [
        ("maximize", "tune", None),
        (["maximize", "minimize"], "tune", None),
        ("minimize", "tune", "hydra.sweeper.direction=minimize: .* give maximize or"),
        (["minimize", "maximize"], "tune", "hydra.sweeper.direction=minimize,maximize"),
        (["maximize", "minimize"], "final", "a search with protocol=final"),
    ],
)
def test_a_search_maximizes_the_accuracy_on_val200_and_may_minimize_the_parameters(
    direction, protocol, message, monkeypatch
):
    node = OmegaConf.create({"sweeper": {"_target_": Sweeper._target_, "direction": direction}})
    monkeypatch.setattr(select_hparams.HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(select_hparams.HydraConfig, "get", lambda: node)
    config = config_of("task=eurosat", f"protocol={protocol}")
    if message is None:
        select_hparams.check_search(config)
    else:
        with pytest.raises(UserError, match=message):
            select_hparams.check_search(config)


@pytest.mark.slow
def test_the_search_returns_accuracy_and_parameters_and_its_points_run(tmp_path):
    optuna = pytest.importorskip("optuna")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    toy = [*TOY, "train.epochs=1", f"run.results={tmp_path / 'results'}", f"data.cache={tmp_path / 'cache'}"]

    def run(*words):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    storage = f"sqlite:///{tmp_path / 'search.db'}"
    search = ["+sweep=autopeft", *toy, "hydra.sweeper.n_trials=3", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert count_cells([CONFIGS], search) is None
    for _ in range(2):
        run("run.py", *search, f"hydra.sweeper.storage={storage}", "hydra.sweeper.study_name=points")
    study = optuna.load_study(study_name="points", storage=storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    records = [read_record(path) for path in (tmp_path / "results" / "records").rglob("seed0.json")]
    found = {(record["correct"] / 200, record["trainable_params"]) for record in records}
    assert len(study.trials) == 6
    assert {tuple(trial.values) for trial in study.trials} == found

    limit = sorted(record["trainable_params"] for record in records)[len(records) // 2]
    best = max(record["correct"] for record in records if record["trainable_params"] <= limit)
    final = ["method=autopeft", "hparams=best", f"hparams_max_params={limit}"]
    run("run.py", *toy, "train=mini", "train.epochs=1", *final)
    [record] = [
        read_record(path)
        for path in (tmp_path / "results" / "records").rglob("seed0.json")
        if json.loads(path.read_text())["protocol"] == "final"
    ]
    assert record["tuned"]["val200"] == best / 200
    assert record["trainable_params"] <= limit == record["tuned"]["max_params"]
    drawn = run("scripts/figures.py", str(tmp_path / "results"))
    assert "vtab1k-test_vit-tune-autopeft-eurosat-pareto.png" in drawn
