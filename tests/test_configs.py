import csv
import itertools
import json
import re

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from moppa.data.task import GROUPS, Task
from moppa.record.schema import key_of
from moppa.sweep.expand import expand_cells
from moppa.utils.config import instantiate
from tests.conftest import CONFIGS, METHODS, ROOT, config_of

TASKS = sorted(path.stem for path in (CONFIGS / "task").glob("*.yaml"))
GROUP_YAMLS = {
    group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    for group in ("backbone", "data", "train", "protocol", "logger")
}


@pytest.mark.slow
def test_every_method_composes_with_every_task():
    cells = expand_cells(CONFIGS, [f"task={','.join(TASKS)}", f"method={','.join(METHODS)}"])
    pairs = [(cell["task"]["name"], cell["method"]["name"]) for cell in cells]
    assert pairs == list(itertools.product(TASKS, METHODS))


def test_every_yaml_of_the_other_groups_composes_and_builds():
    for group, names in GROUP_YAMLS.items():
        for name in names:
            config = config_of("task=cifar100", f"{group}={name}")
            for other in GROUP_YAMLS:
                assert instantiate(config, other) is not None


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_yaml_opens_with_its_command_and_is_named_like_its_file(path):
    scripts = {"merge": "scripts/merge.py", "merging": "scripts/merge.py", "continual": "scripts/continual.py"}
    command = f"python {scripts.get(path.parent.name, scripts.get(path.stem, 'run.py'))}"
    assert f"# {command}" in path.read_text().split("\ndefaults:")[0].split("_target_")[0]
    config = OmegaConf.load(path)
    if "name" in config:
        assert config.name == path.stem


def test_the_vtab_suite_has_the_nineteen_tasks_of_the_paper():
    tasks = [instantiate(config_of(f"task={name}"), "task") for name in TASKS]
    assert all(isinstance(task, Task) for task in tasks)
    assert sorted(task.column for task in tasks) == list(range(1, 20))
    assert [sum(task.group == group for task in tasks) for group in GROUPS] == [7, 4, 8]


def test_the_tasks_match_the_reference_table(shared):
    fingerprints = json.loads((shared / "vtab" / "split_fingerprints.json").read_text())
    with (shared / "vtab" / "tasks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["task"] for row in rows] == sorted(
        TASKS, key=lambda name: instantiate(config_of(f"task={name}"), "task").column
    )
    for row in rows:
        task = instantiate(config_of(f"task={row['task']}"), "task")
        assert task.group == row["group"]
        assert task.splits == {split: row[split] for split in ("train800", "val200", "test")}
        assert (task.num_test, task.num_classes) == (int(row["test_size"]), int(row["num_classes"]))
        assert task.builder.partition(":")[0] == row["tfds"].partition(":")[0]
        official = fingerprints.get(row["task"])
        assert task.fingerprint == (official and {name: official[name] for name in task.fingerprint})


SWEEPS = sorted(
    path.stem for path in (CONFIGS / "sweep").glob("*.yaml") if "override /hydra/sweeper" not in path.read_text()
)  # without searches, whose cells are not fixed
GRIDS = sorted(path.stem for path in (CONFIGS / "grid").glob("*.yaml"))


def stated_number(group, name):
    """Returns the number of cells that the comment of a sweep or grid states."""
    comment = (CONFIGS / group / f"{name}.yaml").read_text().partition("\ndefaults:")[0]
    return int(re.search(r"= (\d+) cells", comment)[1])


def slow_if_large(overrides):
    """Returns the parameter of a sweep. `make check` compares the numbers of all of them, without composing cells."""
    group, _, name = overrides[-1].removeprefix("+").partition("=")
    return pytest.param(overrides, marks=pytest.mark.slow if stated_number(group, name) > 12 else ())


@pytest.mark.parametrize(
    "overrides",
    [slow_if_large([f"+sweep={name}"]) for name in SWEEPS]
    + [slow_if_large(["+sweep=tune_common", f"+grid={name}"]) for name in GRIDS],
)
def test_every_cell_of_a_sweep_composes_and_its_comment_gives_their_number(overrides):
    cells = expand_cells(CONFIGS, overrides)
    assert len({(key_of(cell, "w", "float32"), cell["seed"]) for cell in cells}) == len(cells)
    group, _, name = overrides[-1].removeprefix("+").partition("=")
    assert len(cells) == stated_number(group, name)
    comment = (CONFIGS / group / f"{name}.yaml").read_text().partition("\ndefaults:")[0]
    assert group == "grid" or re.search(r"^# Cost.*(measured|computed)", comment, re.MULTILINE)
    if group == "grid":
        assert {cell["method"]["name"] for cell in cells} == {name.removesuffix("_sgd").removesuffix("_pace")}
    if name.startswith(("tune", "ablation")) or group == "grid":
        assert {cell["protocol"]["name"] for cell in cells} == {"tune"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["task=eurosat,dtd", "method=lora,moppa", "seed=1,2", "train.lr=1e-3,1e-2", "backbone.image_size=112"],
        pytest.param(["+sweep=tune_lr", "seed=0"], marks=pytest.mark.slow),
        ["+sweep=smoke", "task=dtd"],
    ],
)
def test_expanded_cells_equal_those_that_hydra_composes(overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        named = [override for override in overrides if override.startswith("+")]
        params = compose("cell", overrides=["task=dtd", *named], return_hydra_config=True).hydra.sweeper.params or {}
        lists = parser.parse_overrides([*(f"{key}={values}" for key, values in params.items()), *overrides])
        [combinations] = BasicSweeper.split_arguments(lists, None)
        expected = [
            OmegaConf.to_container(compose("cell", overrides=combination), resolve=True) for combination in combinations
        ]
    assert expand_cells(CONFIGS, overrides) == expected


def test_every_method_and_its_size_are_in_the_docs():
    for page in ("README.md", "docs/methods.md"):
        text = (ROOT / page).read_text()
        for method in METHODS:
            size = re.search(r"([\d,]+) trainable parameters", (CONFIGS / "method" / f"{method}.yaml").read_text())
            assert size is not None, f"configs/method/{method}.yaml lacks what `moppa count method={method}` prints"
            assert f"`{method}`" in text, method
            assert size[1] in text, method
