"""The code behind a result: its commit, a digest of its sources, and the versions that can change a number."""

import ast
import hashlib
import platform
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moppa.utils.paths import PACKAGE

PACKAGES = ("moppa", "torch", "timm", "numpy", "pillow", "tensorflow-datasets")
CODE = ("moppa", "baselines", "configs", "run.py", "pyproject.toml")  # what git status is asked about


def code_state() -> dict[str, Any]:
    """Returns the git state and the versions, as a record holds them."""
    return {"git": git_state(), "versions": versions()}


@lru_cache
def git_state() -> dict[str, Any]:
    """Returns the commit of this checkout, and whether its code differs from the commit.

    A new file that git does not know makes the code different. Both are null outside of a checkout, and in a copy that
    lies inside somebody else's repository.
    """
    root = PACKAGE.parent
    is_checkout = run_git(root, "ls-files", "--", "moppa/__init__.py") == "moppa/__init__.py"
    commit = run_git(root, "rev-parse", "HEAD") if is_checkout else ""
    changes = run_git(root, "status", "--porcelain", "--untracked-files=all", "--", *CODE) if commit else ""
    return {"commit": commit or None, "dirty": bool(changes) if commit else None}


@lru_cache
def has_commit(commit: str) -> bool | None:
    """Returns whether this repository has a commit; None if it cannot tell: no checkout, or a shallow one."""
    root = PACKAGE.parent
    if git_state()["commit"] is None or run_git(root, "rev-parse", "--is-shallow-repository") != "false":
        return None
    return run_git(root, "cat-file", "-t", commit) == "commit"


def run_git(root: Path, *arguments: str) -> str:
    """Returns the output of a git command, or nothing if it fails or git is absent."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


@lru_cache
def sources_sha256(module: str, configs: tuple[tuple[str, Path], ...] = (), composed: tuple[str, ...] = ()) -> str:
    """Returns the sha256 over the sources of this package, the module that attaches the method, and over config files.

    Those of the methods that it composes, and the modules beside a method's that it imports, are included, so two runs
    with the same digest ran the same code. `configs` are the names and paths of the YAMLs.
    """
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    for name in (module, *composed):
        files |= {f"method/{path.name}": path for path in method_files(name)}
    files |= {f"configs/{name}": path for name, path in configs}
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}" for name, path in sorted(files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def method_files(module: str) -> set[Path]:
    """Returns the source files of a module and of the modules of the same package that it imports."""
    files: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        spec = find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin) in files:
            continue
        files.add(Path(spec.origin))
        package = name.rpartition(".")[0]
        waiting += [f"{package}.{sibling}" for sibling in imported_siblings(Path(spec.origin))]
    return files


def imported_siblings(file: Path) -> Iterator[str]:
    """Yields the modules that a file imports with `from .sibling import name`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module] if node.module else [alias.name for alias in node.names]


@lru_cache
def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that can change a result, as far as they are installed."""
    return {"python": platform.python_version(), **{name: found for name in PACKAGES if (found := version_of(name))}}


def version_of(package: str) -> str | None:
    """Returns the installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
