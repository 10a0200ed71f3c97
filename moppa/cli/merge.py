"""Merges finished cells of many tasks into one backbone: moppa merge merge=ties suite=mini method=lora seed=0,1,2.

    merge=NAME          an algorithm of configs/merge/; several with commas, or all
    suite=NAME          the tasks and the recipe of configs/sweep/NAME.yaml: mini, vtab1k
    num_tasks=2,4       merges so many of them, instead of all; scales=[0.5,1.0] and the others of configs/merging.yaml
    OVERRIDES           those of `moppa run` that describe the experts: backbone, method, seed, train, hparams, run, ...

The experts are cells of protocol=tune, which choose the scale on val200, and of protocol=final, which count. If some
are missing, the command that trains them is printed. A merge that has a record is not run again.
"""

import sys
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from moppa.cli.errors import prints_errors
from moppa.utils import validate
from moppa.utils.config import to_plain
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, user_path

OWN = ("merge", "scales", "head_l2", "num_tasks", "experts", "export")  # the settings of configs/merging.yaml
EXAMPLES = {"merge": "merge=ties", "continual": "continual=sequential"}
EXPERIMENTS = {"merge": "merge", "continual": "continual experiment"}
LISTS = ("merge", "num_tasks")  # of these several can be given


@prints_errors(HydraException)
def main() -> int:
    """Prints the path of every record."""
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    own, cells = split_words(words)
    configs = merge_configs(own)
    from moppa.merging.experts import check_method  # torch
    from moppa.merging.run import Group, run_merges
    from moppa.sweep.merge_groups import check_available, merge_groups
    from moppa.utils.run_settings import apply_run_settings

    experts = configs[0]["experts"]
    groups, resolved = merge_groups(CONFIGS, cells, experts=experts)
    run = resolved[0]["run"]
    apply_run_settings(run)
    for final in {final[0].config["method"]["name"]: final[0] for _, final in groups}.values():
        check_method(final)
    check_available([cell for group in groups for of_group in group for cell in of_group], cells, resolved, experts)
    results = user_path(run["results"])
    for tune, final in groups:
        for number in dict.fromkeys(config["num_tasks"] for config in configs):
            chosen = [config for config in configs if config["num_tasks"] == number]
            for path, is_new in run_merges(Group(tune, final).first(number), chosen, results):
                print(f"{'' if is_new else 'done already: '}{path}", flush=True)
    return 0


def split_words(words: Sequence[str], own_names: Sequence[str] = OWN) -> tuple[list[str], list[str]]:
    """Returns the words about the experiment, and those about its cells with the suite as a sweep.

    `own_names` are the settings of the experiment, of which the first, as the command, names its YAMLs.

    Raises:
        UserError: if no algorithm, suite or method is named.
    """
    command, *_ = own_names
    own = [word for word in words if word.partition("=")[0].partition(".")[0] in own_names]
    cells = [word for word in words if word not in own]
    names = {word.partition("=")[0] for word in words}
    for name, example in ((command, EXAMPLES[command]), ("suite", "suite=mini"), ("method", "method=lora")):
        if name not in names:
            raise UserError(f"no {name} is chosen: add {example}; `moppa {command} --help` explains the words")
    if chosen := [word for word in cells if word.startswith(("protocol=", "+sweep="))]:
        raise UserError(
            f"{chosen[0]}: a {EXPERIMENTS[command]} takes cells of protocol=tune and protocol=final; choose suite=NAME"
        )
    suite = next(word.partition("=")[2] for word in cells if word.startswith("suite="))
    suites = sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml"))
    if suite not in suites:
        raise UserError(f"suite={suite}: there is no configs/sweep/{suite}.yaml; choose one of {', '.join(suites)}")
    return own, [f"+sweep={suite}", *(word for word in cells if not word.startswith("suite="))]


def merge_configs(words: Sequence[str]) -> list[dict[str, Any]]:
    """Returns one resolved config of configs/merging.yaml for every algorithm and number of tasks."""
    lists = {name: [word.partition("=")[2] for word in words if word.startswith(f"{name}=")] for name in LISTS}
    others = [word for word in words if word.partition("=")[0] not in LISTS]
    algorithms = sorted(path.stem for path in (CONFIGS / "merge").glob("*.yaml"))
    names = [name for words in lists["merge"] for name in words.split(",")]
    names = algorithms if names == ["all"] else [validate.one_of("merge", name, algorithms) for name in names]
    texts = [text for words in lists["num_tasks"] for text in words.split(",")] or ["null"]
    numbers = [int(text) if text.isdecimal() else None if text == "null" else text for text in texts]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        configs = [to_plain(compose("merging", overrides=[f"merge={name}", *others])) for name in names]
    return [{**config, "num_tasks": number} for number in numbers for config in configs]


if __name__ == "__main__":
    sys.exit(main())
