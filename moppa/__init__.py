"""MoPPA: parameter-efficient fine-tuning of vision transformers on VTAB-1K, so that every number can be repeated.

Without the harness: `moppa.attach(timm_model)`, one's own loop with `loss + moppa.penalty(model, progress)`,
`moppa.merge(model)` before an evaluation, `moppa.save` and `moppa.load` for the adapter alone.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moppa.mixture.api import attach, load, save
    from moppa.peft.collect import penalty
    from moppa.peft.inject import merge

__all__ = ["attach", "load", "merge", "penalty", "save"]


def __getattr__(name: str) -> Any:
    """The public names, imported where they are first used: the harness itself must start fast."""
    if name in {"attach", "load", "save"}:
        from moppa.mixture import api

        return getattr(api, name)
    if name in {"merge", "penalty"}:
        from importlib import import_module

        return getattr(import_module("moppa.peft.collect" if name == "penalty" else "moppa.peft.inject"), name)
    raise AttributeError(f"module 'moppa' has no attribute {name!r}; it has {', '.join(__all__)}")
