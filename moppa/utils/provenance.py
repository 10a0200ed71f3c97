"""The code behind a result: its commit, and the versions of the packages that can change a number."""

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moppa.utils.paths import PACKAGE

PACKAGES = ("moppa", "torch", "timm", "numpy", "pillow", "tensorflow-datasets")
CODE_FILES = ("*.py", "*.yaml", "*.toml", "*.txt")


def code_state() -> dict[str, Any]:
    """Returns the git state and the versions, as a record holds them."""
    return {"git": git_state(), "versions": versions()}


@lru_cache
def git_state() -> dict[str, Any]:
    """Returns the commit of this checkout and whether tracked code differs from it; nulls outside of a checkout."""
    root = PACKAGE.parent
    commit = run_git(root, "rev-parse", "HEAD")
    changes = run_git(root, "status", "--porcelain", "--untracked-files=no", "--", *CODE_FILES)
    return {"commit": commit or None, "dirty": bool(changes) if commit else None}


def run_git(root: Path, *arguments: str) -> str:
    """Returns the output of a git command, or nothing if it fails or git is absent."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


@lru_cache
def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that can change a result."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
