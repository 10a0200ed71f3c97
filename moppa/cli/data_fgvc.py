"""Writes the splits of a task of the FGVC suite as a CSV beside its images: moppa data fgvc nabirds FOLDER.

FOLDER holds the data set as it is downloaded. If VPT's published split files train.json, val.json and test.json lie
there too, the splits are theirs. Without them, the official training images of NABirds or CUB-200-2011 are divided by
VPT's rule, 90 to 10 at random, into splits of VPT's sizes but of other images. Prints the command that runs the task.
"""

import argparse
import csv
import sys
from pathlib import Path

from moppa.cli.errors import prints_errors
from moppa.data.published_splits import published_rows
from moppa.utils.atomic import atomic_write
from moppa.utils.config import compose_config, instantiate
from moppa.utils.paths import CONFIGS, user_path

TABLE = "fgvc.csv"


@prints_errors()
def main() -> int:
    """Writes FOLDER/fgvc.csv; returns 1 if the files are not those of the task."""
    tasks = sorted(path.stem for path in (CONFIGS / "task" / "fgvc").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=tasks, metavar="TASK", help=", ".join(tasks))
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    folder = user_path(arguments.folder)
    task = instantiate(compose_config([f"task=fgvc/{arguments.task}"]), "task")
    rows, is_vpt = published_rows(folder, task)
    with atomic_write(folder / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    origin = (
        "the splits of VPT's files" if is_vpt else "training images divided 90 to 10 by VPT's rule, not VPT's own draw"
    )
    print(f"{folder / TABLE}: {len(rows)} images, {origin}")
    print(f"moppa run task=fgvc/{arguments.task} data=folder data.dir={folder} data.table={TABLE} method=lora")
    return 0


if __name__ == "__main__":
    sys.exit(main())
