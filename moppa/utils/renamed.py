"""Names that have changed: settings, values and Python paths of configs, old -> new."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from moppa.utils.errors import UserError
from moppa.utils.paths import IS_CHECKOUT

SETTINGS = {
    "data.store": "data.cache",
    "run.compile": "run.step",
    "run.lean": "run.skip_unused",
    "run.products": "run.matmul_backend",
}
VALUES = {
    "run.skip_unused": {"unread": "last_block_tokens", "dropped": "dropped_samples"},
    "protocol": {"paper": "best_on_test"},
}
TARGETS = {
    "baselines.binary.attach_adaptformer": "baselines.bi_adaptformer.attach",
    "baselines.binary.attach_lora": "baselines.bi_lora.attach",
    "moppa.backbone.Backbone": "moppa.backbone.model.Backbone",
    "moppa.data.mini.MiniSource": "moppa.data.mini.source.MiniSource",
    "moppa.log.NoLogger": "moppa.train.loggers.NoLogger",
    "moppa.log.TensorBoardLogger": "moppa.train.loggers.TensorBoardLogger",
    "moppa.log.WandbLogger": "moppa.train.loggers.WandbLogger",
    "moppa.mixture.attach": "moppa.mixture.insert.attach",
    "moppa.train.Recipe": "moppa.train.recipe.Recipe",
}


def locate(target: str) -> Any:
    """Returns the function or class that a config names by its Python path."""
    module, _, name = importable(target).rpartition(".")
    return getattr(import_module(module), name)


def importable(target: str) -> str:
    """Returns a Python path of a config as it is called today and here: in a wheel baselines are inside the package."""
    target = TARGETS.get(target, target)
    return f"moppa.{target}" if target.startswith("baselines.") and not IS_CHECKOUT else target


def check_overrides(overrides: Sequence[str]) -> None:
    """Raises `UserError` with the new name if an override uses a setting or choice that was renamed."""
    for override in overrides:
        name, _, value = override.lstrip("+~").partition("=")
        if name in SETTINGS:
            raise UserError(f"{override}: {name} is now called {SETTINGS[name]}")
        for old, new in VALUES.get(name, {}).items():
            if old in value.strip("[]'\"").split(","):
                raise UserError(f"{override}: {name}={old} is now called {name}={new}")
