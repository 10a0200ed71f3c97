"""Imports timm without wandb, which timm imports for its own training script; that takes half a second."""

import sys
from typing import Any

modules: dict[str, Any] = sys.modules
if "timm" not in modules and "wandb" not in modules:
    modules["wandb"] = None  # timm then takes it as not installed
    import timm  # noqa: F401

    del modules["wandb"]
