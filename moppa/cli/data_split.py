"""Divides your own images into splits and writes their task: moppa data split FOLDER NAME --test 0.2 --val 0.1.

FOLDER holds the images as CLASS/IMAGE, or a CSV with the columns path and label (--table). Numbers below 1 are
fractions, others are numbers of images. With --folds 5 the small set is divided for cross-validation: five tasks, of
which each tests on another fifth, so that the mean over them counts every image once.

Writes FOLDER/NAME.csv, configs/task/NAME/NAME.yaml and configs/data/NAME.yaml; of each fold, the same for NAME_foldK.
"""

import argparse
import csv
import sys
from pathlib import Path

from moppa.cli.errors import prints_errors
from moppa.data.own_splits import csv_lines, data_yaml, find_images, fold_images, split_images, task_yaml
from moppa.utils.atomic import atomic_write, write_text
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, IS_CHECKOUT, user_path


@prints_errors()
def main() -> int:
    """Prints the files and the command that runs the tasks; returns 1 if the images or numbers are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("name", metavar="NAME", help="of the task and of its suite: the table of the results")
    parser.add_argument("--table", metavar="FILE", help="a CSV in FOLDER with the columns path and label")
    parser.add_argument("--val", type=float, default=0.1, help="images to choose settings on: %(default)s")
    parser.add_argument("--test", type=float, default=0.2, help="images to test on: %(default)s")
    parser.add_argument("--folds", type=int, help="cross-validation with so many folds, in place of --val and --test")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other splits: %(default)s")
    parser.add_argument(
        "--configs",
        type=Path,
        default=CONFIGS if IS_CHECKOUT else Path("configs"),
        help="the folder of the YAMLs, for run.py --config-dir: %(default)s",
    )
    arguments = parser.parse_args()
    write(arguments)
    return 0


def write(arguments: argparse.Namespace) -> None:
    """Writes the CSVs and the YAMLs."""
    name, folder = arguments.name, user_path(arguments.folder)
    if not name.isidentifier():
        raise UserError(f"NAME={name!r}: it names a folder and a task, so use letters, digits and underscores")
    images = find_images(folder, folder / arguments.table if arguments.table else None)
    if arguments.folds is None:
        splits = split_images(images, val=arguments.val, test=arguments.test, seed=arguments.seed)
        parts = {name: splits}
    else:
        folds = fold_images(images, folds=arguments.folds, seed=arguments.seed)
        parts = {f"{name}_fold{index}": splits for index, splits in enumerate(folds)}
    tasks = {}
    for column, (task, splits) in enumerate(parts.items(), start=1):
        table = folder / f"{task}.csv"
        texts = {
            f"task/{name}/{task}": task_yaml(task, name, column, splits),
            f"data/{task}": data_yaml(task, name, table),
        }
        tasks[task] = table, csv_lines(splits), texts
    for task, (table, lines, texts) in tasks.items():
        with atomic_write(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)
        paths = [user_path(arguments.configs) / f"{path}.yaml" for path in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            write_text(path, text)
        counts = ", ".join(f"{len(images)} {split}" for split, images in parts[task].items())
        print(f"{table}: {counts}", *paths, sep="\n")
    option = "" if user_path(arguments.configs).resolve() == CONFIGS.resolve() else f" --config-dir {arguments.configs}"
    many = " -m" if len(tasks) > 1 else ""
    print(f"moppa run{option}{many} task={','.join(f'{name}/{task}' for task in tasks)} method=lora")


if __name__ == "__main__":
    sys.exit(main())
