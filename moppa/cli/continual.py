"""Trains tasks in sequence: moppa continual continual=share,opcm suite=mini backbone=vit_micro method=lora seed=0,1,2.

    continual=NAME      a strategy of configs/continual/; several with commas, or all
    suite=NAME          the tasks and the recipe of configs/sweep/NAME.yaml; task=A,B,C takes fewer of them
    orders=[0,1,2]      the orders of the tasks: 0 is that of the suite, any other number draws one
    grid={train.lr:[1e-3,5e-3]}  values of settings of train, method or the strategy, one of which is chosen on val200
    OVERRIDES           those of `moppa run` that describe the training of a task: backbone, method, seed, train, run

After each task all tasks so far are evaluated, with protocol=final on the test sets. A step that has a record is not
run again. `moppa table` writes average accuracy and forgetting.
"""

import sys
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from moppa.cli.errors import prints_errors
from moppa.cli.merge import split_words
from moppa.utils import validate
from moppa.utils.config import to_plain
from moppa.utils.errors import SettingError
from moppa.utils.paths import CONFIGS, user_path

OWN = ("continual", "orders", "grid")  # the settings of configs/continual.yaml


@prints_errors(HydraException)
def main() -> int:
    """Prints the path of every record, and the seconds of the steps that were trained now."""
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    own, cells = split_words(words, OWN)
    configs = continual_configs(own)
    from moppa.continual.protocol import in_order, run_protocol  # torch
    from moppa.sweep.merge_groups import merge_groups
    from moppa.utils.run_settings import apply_run_settings

    groups, resolved = merge_groups(CONFIGS, cells, experts=None)
    run = resolved[0]["run"]
    apply_run_settings(run)
    results = user_path(run["results"])
    for config in configs:
        for tune, final in groups:
            for order in config["orders"]:
                for step in run_protocol(in_order(tune, order), in_order(final, order), config, results):
                    done = "done already: " if step.seconds is None else f"{step.seconds:.1f} s: "
                    print(f"{done}{step.path}", flush=True)
    return 0


def continual_configs(words: Sequence[str]) -> list[dict[str, Any]]:
    """Returns one resolved config of configs/continual.yaml for every strategy that the words name."""
    lists = [word.partition("=")[2] for word in words if word.startswith("continual=")]
    others = [word for word in words if not word.startswith("continual=")]
    strategies = sorted(path.stem for path in (CONFIGS / "continual").glob("*.yaml"))
    names = [name for text in lists for name in text.split(",")]
    names = strategies if names == ["all"] else [validate.one_of("continual", name, strategies) for name in names]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        configs = [to_plain(compose("continual", overrides=[f"continual={name}", *others])) for name in names]
    for config in configs:
        if not isinstance(config["orders"], list) or not config["orders"]:
            raise SettingError("orders", f"={config['orders']!r}: it must be a list of numbers, as in [0,1,2]")
    return configs


if __name__ == "__main__":
    sys.exit(main())
