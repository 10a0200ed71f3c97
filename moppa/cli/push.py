"""Publishes a finished cell: moppa push RECORD hf://USER/REPO, or moppa push RECORD FOLDER to look at the files first.

The repository holds a model card (task, split check, accuracy with its interval, config, weights, license of the
backbone), the model for timm and for HF peft as far as they can hold the method, else as ONNX, and the record with its
predictions, its tune records and the trained tensors, so that `moppa verify` can check the download.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from moppa.cli.errors import prints_errors
from moppa.export.formats import FORMATS
from moppa.export.push import HUB, repository_of, upload, write_repository
from moppa.utils.paths import user_path


@prints_errors()
def main() -> int:
    """Prints the address of the repository or the folder, or returns 1 if the cell cannot be published."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=user_path, help="the JSON file of a finished cell")
    parser.add_argument("target", help="hf://USER/REPO, or a new folder")
    parser.add_argument("--to", nargs="+", choices=FORMATS, default=[], help="default: what can hold the method")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--weights", metavar="FILE", help="the backbone's checkpoint, if it has moved")
    args = parser.parse_args()
    print(push(args.record, args.target, args.to, args.weights, private=args.private))
    return 0


def push(record: Path, target: str, formats: list[str], weights: str | None, *, private: bool) -> str:
    """Writes the files to a folder, or to a temporary one that is uploaded, and returns where they are."""
    if not target.startswith(HUB):
        folder = user_path(target)
        write_repository(record, folder, f"USER/{folder.name}", formats=formats, weights=weights)
        return str(folder)
    repository = repository_of(target)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "repository"
        write_repository(record, folder, repository, formats=formats, weights=weights)
        return upload(folder, repository, private=private)


if __name__ == "__main__":
    sys.exit(main())
