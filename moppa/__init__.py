"""MoPPA: parameter-efficient fine-tuning of vision transformers, with reproducible results on VTAB-1K.

Use without the harness: `moppa.attach(timm_model)`, or `moppa.attach(timm_model, method="lora", rank=8)` for another
method, a training loop with `loss + moppa.penalty(model, progress)`, `moppa.merge(model)` before evaluation, and
`moppa.save` and `moppa.load` for what the method has trained.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moppa.peft.api import attach, load, save
    from moppa.peft.collect import after_step, penalty
    from moppa.peft.inject import merge

__all__ = ["after_step", "attach", "load", "merge", "penalty", "save"]

MODULES = {
    "after_step": "moppa.peft.collect",
    "attach": "moppa.peft.api",
    "load": "moppa.peft.api",
    "merge": "moppa.peft.inject",
    "penalty": "moppa.peft.collect",
    "save": "moppa.peft.api",
}


def __getattr__(name: str) -> Any:
    """Imports a public function on first use, so that `import moppa` does not import torch."""
    if name not in MODULES:
        raise AttributeError(f"module 'moppa' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(MODULES[name]), name)
