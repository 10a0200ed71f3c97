"""The packs that were added to a results folder: submitted/NAME/ holds the files of one pack with its manifest."""

import hashlib
import re
import shutil
from pathlib import Path

from moppa.record.files import copy_files
from moppa.record.pack import MANIFEST, read_manifest
from moppa.utils.atomic import write_error
from moppa.utils.errors import UserError

FOLDER = "submitted"


def submitted_packs(results: Path) -> dict[Path, str]:
    """Returns the folders of the packs below `results/submitted`, in order, with their senders.

    Raises:
        UserError: if a manifest cannot be read.
    """
    manifests = {file.parent: read_manifest(file.parent) for file in sorted((results / FOLDER).glob(f"*/{MANIFEST}"))}
    return {folder: manifest["sender"] for folder, manifest in manifests.items() if manifest is not None}


def add_pack(folder: Path, results: Path) -> Path:
    """Copies an unpacked pack, which was verified, below `results/submitted`, and returns the new folder.

    Raises:
        UserError: if the folder has no manifest, or the pack was added before.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"there is no {MANIFEST}: give a pack of `moppa submit`")
    name = re.sub(r"\W+", "-", manifest["sender"].lower()).strip("-")
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:8]
    target = results / FOLDER / f"{name}-{digest}"
    if target.exists():
        raise UserError(f"{target} exists already: this pack was added before")
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        copy_files([folder / file for file in (MANIFEST, *manifest["files"])], folder, temporary)
        temporary.replace(target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
