"""Prints the digests of a task's test split for its YAML: moppa data digest task=svhn [--write].

`names` is the sha256 of the sorted image names, one per line; `pixels` is over the decoded images. Takes overrides of
`moppa run` (data.dir, data.cache, backbone) and size=224 interpolation=bicubic, and prepares the task first if it is
not cached. --write stores `names` in the YAML if the data set names its images (task.name_key), and `pixels` if not.
"""

import re
import sys
from pathlib import Path

from hydra.errors import HydraException

from moppa.cli.errors import prints_errors
from moppa.data.cache import prepare_splits
from moppa.data.check import split_check
from moppa.data.cli import image_format, parse_args, tasks_and_sources
from moppa.data.task import SPLITS
from moppa.utils.atomic import write_text
from moppa.utils.config import compose_config
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS

ENTRY = re.compile(r"^test_sha256:.*\n(?:[ \t]+.*\n)*", re.MULTILINE)
COMMENTS = {
    "names": "of the test split: sha256 of the sorted image names, one per line",
    "pixels": "of the test split: sha256 over the sha256 of each decoded image",
}


@prints_errors(HydraException)
def main() -> int:
    """Prints the digests, and writes one to the YAML if asked to; returns 1 if the images cannot be read."""
    args = [arg for arg in sys.argv[1:] if arg != "--write"]
    if {"-h", "--help"} & set(args):
        print(__doc__)
        return 0
    options, overrides = parse_args(args)
    if "task" not in options:
        print(__doc__, file=sys.stderr)
        return 2
    digests, stored = read_digests(options, overrides)
    print("\n".join(["test_sha256:", *[f"  {name}: {digest}" for name, digest in digests.items()]]))
    if "--write" in sys.argv:
        file = CONFIGS / "task" / f"{options['task']}.yaml"
        write_digest(file, stored, digests[stored])
        print(f"written to {file}", file=sys.stderr)
    return 0


def read_digests(options: dict[str, str], overrides: list[str]) -> tuple[dict[str, str], str]:
    """Returns the digests of the test split of a task, and which of them to store.

    Raises:
        UserError: if the images cannot be read, are not the official ones, or are a lossy copy.
    """
    [(task, source)] = tasks_and_sources(CONFIGS, [options["task"]], overrides)
    target = image_format(compose_config([f"task={options['task']}", *overrides]), options)
    check = split_check(task, source, prepare_splits(task, SPLITS, source, target))
    digests = {name: digest for name, digest in check["test_sha256"].items() if digest}
    if not digests:
        raise UserError(
            f"task {task.name}: images of {source.lineage} are a lossy copy without a digest; choose data=tfds"
        )
    return digests, "names" if task.name_key and "names" in digests else "pixels"


def write_digest(file: Path, name: str, digest: str) -> None:
    """Writes a digest to the YAML of a task, in place of the entry that is there.

    Raises:
        UserError: if the file cannot be read or written.
    """
    try:
        text = file.read_text(encoding="utf-8").rstrip("\n") + "\n"
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}); add the lines above by hand") from error
    entry = f"test_sha256:  # {COMMENTS[name]}\n  {name}: {digest}\n"
    text = ENTRY.sub(entry, text, count=1) if ENTRY.search(text) else text + entry
    write_text(file, text)
