"""The code that a result rests on: its commit, and the versions of what can move a number."""

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moppa.utils.paths import IS_CHECKOUT

PACKAGES = ("moppa", "torch", "timm", "numpy", "pillow", "tensorflow-datasets")


def code_state() -> dict[str, Any]:
    """The commit and versions that a result rests on."""
    return {"git": git_state(), "versions": versions()}


@lru_cache
def git_state() -> dict[str, Any]:
    """The commit of this checkout and whether tracked files differ from it; nulls outside a checkout."""
    root = Path(__file__).parent.parent.parent
    commit = git(root, "rev-parse", "HEAD") if IS_CHECKOUT else ""  # a wheel may lie inside another repository
    dirty = git(root, "status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.yaml", "*.toml", "*.txt")
    return {"commit": commit or None, "dirty": None if not commit else bool(dirty)}


def git(root: Path, *words: str) -> str:
    """What git says, or nothing where there is no git or no checkout."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


@lru_cache
def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can move a result."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
