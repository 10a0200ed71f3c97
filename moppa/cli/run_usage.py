"""What `moppa run --help` prints: usage, every task, and the choices of every config group."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

GROUPS = {  # in the order in which they are shown
    "method": "what is attached and trained",
    "backbone": "the pretrained model",
    "train": "the recipe",
    "+augmentation": "timm's augmentation of the training images",
    "protocol": "what is trained on and evaluated",
    "data": "where the images come from",
    "logger": "where the curve goes besides the record",
    "+sweep": "a named multirun, with -m",
    "+grid": "the values that +sweep=tune_common varies",
    "hydra/launcher": "how -m runs the cells",
}
SUITES = {  # by the folder of their YAMLs
    "mini": "tasks that need no download (backbone=vit_micro)",
    "": "tasks of VTAB-1K",
    "vtab_full": "tasks of VTAB with all training images (train=vtab_full)",
    "fgvc": "tasks of FGVC",
}
HEAD = """\
usage: {program} task=NAME [OVERRIDES]       one cell: a method on a task with one seed
       {program} -m task=A,B [OVERRIDES]     many cells: all combinations of comma-separated values

    {program} task=mini/digits backbone=vit_micro train=mini method=lora
    {program} -m task=eurosat,dtd method=lora,moppa seed=0,1,2 train.lr=1e-3

A finished cell is skipped, an interrupted one resumes. Records go to run.results=results; `moppa table` reads them."""
OPTIONS = """\
options
  -m, --multirun      run all combinations; without a launcher one after the other
  --cfg job           print the settings of a cell and their values, and exit
  --config-dir DIR    also take tasks, methods and backbones from the YAMLs in DIR
  -sc install=bash    print what completes overrides with TAB: eval "$({program} -sc install=bash)"
  --hydra-help        more options, of Hydra

Any setting can be overridden: method.attach.rank=4 train.epochs=20 run.threads=2 data.dir=~/data seed=1."""


def usage(program: str, folders: Sequence[Path]) -> str:
    """Returns the help for the config groups in `folders`."""
    lines = [HEAD.format(program=program), "", *task_lines(folders), ""]
    lines += ["other groups, as GROUP=NAME"]
    for group, description in GROUPS.items():
        names = choices(folders, group.lstrip("+"))
        lines += ["", f"  {group}: {description}", wrapped(names)]
    return "\n".join([*lines, "", OPTIONS.format(program=program)])


def task_lines(folders: Sequence[Path]) -> list[str]:
    """Returns the lines about tasks: those of the mini suite first, because they need no download."""
    by_folder: dict[str, list[str]] = {folder: [] for folder in (*SUITES, "own")}
    for name in choices(folders, "task"):
        folder = name.rpartition("/")[0]
        by_folder[folder if folder in SUITES else "own"].append(name)
    kinds = {(SUITES | {"own": "your tasks"})[folder]: names for folder, names in by_folder.items()}
    lines = [line for kind, of_kind in kinds.items() if of_kind for line in ("", kind, wrapped(of_kind))]
    return lines[1:]


def choices(folders: Sequence[Path], group: str) -> list[str]:
    """Returns the names of a group's YAMLs, without hidden files."""
    paths = {path.relative_to(folder / group) for folder in folders for path in (folder / group).rglob("*.yaml")}
    return sorted(path.with_suffix("").as_posix() for path in paths if not path.name.startswith("."))


def wrapped(names: Sequence[str]) -> str:
    """Returns names as indented lines."""
    return textwrap.fill(
        " ".join(names), width=100, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )
