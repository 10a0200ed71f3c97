"""The command `moppa`: finds the module of a command and calls its `main`.

A module is imported only when its command runs, so that `moppa --help` is fast and needs neither torch nor the extras.
"""

import ast
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from moppa.cli.errors import ends_with_its_pipe
from moppa.utils.output import allow_any_text
from moppa.utils.provenance import version_of

COMMANDS = {
    "run": ("moppa.cli.run", "train and evaluate a method on a task; -m runs many cells"),
    "sweep": ("moppa.cli.sweep", "plan a sweep, show its status, or retry its failed cells"),
    "table": ("moppa.cli.table", "write results/tables/ from results/records/"),
    "compare": ("moppa.cli.compare", "test which differences between rows are significant"),
    "figures": ("moppa.cli.figures", "draw results/figures/"),
    "gain": ("moppa.cli.gain", "show what a row gains over its control on each task"),
    "report": ("moppa.cli.report", "write the HTML page results/report/index.html"),
    "merge": ("moppa.cli.merge", "merge the finished cells of many tasks into one backbone"),
    "continual": ("moppa.cli.continual", "train tasks in sequence on one backbone, and measure forgetting"),
    "count": ("moppa.cli.count", "count the parameters that a method trains"),
    "verify": ("moppa.cli.verify", "check records, their files, links and parameters"),
    "submit": ("moppa.cli.submit", "pack records for somebody else's table"),
    "accept": ("moppa.cli.accept", "verify a pack of records and add it to the tables"),
    "rekey": ("moppa.cli.rekey", "give records of the first format today's keys"),
    "export": ("moppa.cli.export", "write a finished cell for timm, HF peft or ONNX"),
    "push": ("moppa.cli.push", "publish a finished cell on the Hugging Face hub"),
    "demo": ("moppa.cli.demo", "run six methods on the mini suite, without downloads"),
    "data check": ("moppa.cli.data_check", "check which of the 19 tasks are available and official"),
    "data digest": ("moppa.cli.data_digest", "print the digests of a task's test split for its YAML"),
    "data prepare": ("moppa.cli.data_prepare", "download, resize and cache tasks"),
    "data pack": ("moppa.cli.data_pack", "write the cached images of tasks as archives with checksums"),
    "data unpack": ("moppa.cli.data_unpack", "verify such archives and install them in the cache"),
    "data split": ("moppa.cli.data_split", "divide your own images into splits and write their task"),
    "data fgvc": ("moppa.cli.data_fgvc", "write the splits of an FGVC task beside its images"),
    "data noah-jpeg": ("moppa.cli.data_noah_jpeg", "re-encode a task as NOAH's JPEG files"),
    "bench": ("moppa.cli.bench", "measure steps, optimizations and whole cells"),
    "official": ("moppa.cli.official", "compare the methods with their authors' code"),
    "gpu": ("moppa.cli.gpu", "check and measure everything that needs a GPU, in six minutes"),
    "bench-adapter": ("moppa.cli.bench_adapter", "measure MoPPA's operators"),
    "bench-merging": ("moppa.cli.bench_merging", "measure the peak memory of merging algorithms"),
    "probe": ("moppa.cli.probe", "fit a linear probe on a backbone's features"),
    "pretrain": ("moppa.cli.pretrain", "pretrain vit_micro"),
    "routes": ("moppa.cli.routes", "plot the routing weights of a MoPPA cell"),
    "docs": ("moppa.cli.docs", "rewrite the generated parts of the docs (in a checkout)"),
}
# Modules whose names differ from those of the distributions that install them.
MODULES = {
    "hydra-core": "hydra",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "tensorflow-cpu": "tensorflow",
    "vl-convert-python": "vl_convert",
}


@ends_with_its_pipe
def main() -> int:
    """Runs the command that `sys.argv` names and returns its exit status."""
    words = sys.argv[1:]
    if words[:1] == ["--version"]:
        print(f"moppa {version_of('moppa') or 'of a checkout that is not installed'}")
        return 0
    if words[:1] == ["-sc"]:
        return import_module("moppa.cli.completion").main(list(COMMANDS))
    name = next((" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in COMMANDS), None)
    if name is None:
        return show_usage(words)
    return run_command(name, words[len(name.split()) :])


@ends_with_its_pipe
def run_command(name: str, words: Sequence[str]) -> int:
    """Runs a command with the rest of the command line, and returns its exit status."""
    sys.argv = ["moppa" if words[:1] == ["-sc"] else f"moppa {name}", *words]  # Hydra's script names the program
    allow_any_text()
    try:
        return import_command(name)() or 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        extra = missing_extra(error.name or "")
        if extra is None:
            raise
        print(f"error: moppa {name} needs {error.name}: pip install 'moppa[{extra}]'", file=sys.stderr)
        return 1


def show_usage(words: Sequence[str]) -> int:
    """Prints one line for each command; returns 2 if `words` ask for a command that does not exist."""
    first = words[0] if words else "--help"
    shown = {name: text for name, (_, text) in COMMANDS.items() if name.split()[0] == first} or {
        name: text for name, (_, text) in COMMANDS.items()
    }
    is_question = first in ("-h", "--help") or (len(shown) < len(COMMANDS) and words[1:] in ([], ["-h"], ["--help"]))
    if not is_question:
        print(f"error: there is no command {' '.join(words[:2])!r}", file=sys.stderr)
    lines = [f"  {name:<16}{text}" for name, text in shown.items()]
    text = "\n".join(["usage: moppa COMMAND ...", "", *lines, "", "`moppa COMMAND --help` explains a command."])
    print(text, file=sys.stdout if is_question else sys.stderr)
    return 0 if is_question else 2


def import_command(name: str) -> Callable[[], int | None]:
    """Returns the `main` of a command. Its help is the docstring of its module, which python -OO removes."""
    module: Any = import_module(COMMANDS[name][0])
    if module.__doc__ is None:
        module.__doc__ = ast.get_docstring(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
    return module.main


def missing_extra(module: str) -> str | None:
    """Returns the extra of moppa that installs a module, or None if none does or moppa itself is not installed."""
    top = module.partition(".")[0]
    for requirement in (requires("moppa") or ()) if version_of("moppa") else ():
        distribution = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if extra and MODULES.get(distribution, distribution.replace("-", "_")) == top:
            return extra[1]
    return None


if __name__ == "__main__":
    sys.exit(main())
