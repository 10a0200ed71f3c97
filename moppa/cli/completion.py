"""What TAB completes after `moppa`: commands, and overrides after the commands that take those of `moppa run`.

Hydra's script for bash, which `moppa run -sc install=bash` prints, asks for it with `moppa -sc query=bash`.
"""

import os
import sys
from collections.abc import Sequence

from moppa.utils.paths import CONFIGS

TAKE_OVERRIDES = ("run", "count", "probe", "sweep plan", "sweep status", "sweep retry", "bench cell", "data prepare")


def main(commands: Sequence[str]) -> int:
    """Prints the completions of the line in `COMP_LINE`."""
    line = os.environ.get("COMP_LINE", "")
    _, *words = line.split() or [""]
    is_new_word = line.endswith(" ")
    for command in TAKE_OVERRIDES:
        parts = command.split()
        if words[: len(parts)] == parts and (len(words) > len(parts) or is_new_word):
            rest = words[len(parts) :] + [""] * is_new_word
            return print_overrides(rest)
    finished = words if is_new_word else words[:-1]
    names = [command.split() for command in (*commands, *TAKE_OVERRIDES)]
    position = len(finished)
    print(*dict.fromkeys(name[position] for name in names if name[:position] == finished and len(name) > position))
    return 0


def print_overrides(words: Sequence[str]) -> int:
    """Prints the completions of the last override: the YAMLs of its group, which may lie in folders, else Hydra's."""
    from moppa.cli.run_usage import choices

    group, equals, typed = words[-1].partition("=")
    if equals and (names := choices([CONFIGS], group.lstrip("+"))):
        print(*(f"{group}={name}" for name in names if name.startswith(typed)))
        return 0
    from moppa.cli.run import main as run

    os.environ["COMP_LINE"] = " ".join(["moppa", *words])
    sys.argv = ["moppa", "-sc", "query=bash"]
    return run()
