"""A repository of the Hugging Face hub with a finished cell: model card, exported files, record and trained tensors."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models._hub import save_config_for_hf

from moppa.export.card import render_card
from moppa.export.facts import plain_model, timm_settings
from moppa.export.formats import FORMATS
from moppa.record.files import copy_files, record_files
from moppa.record.trained import Finished, load_finished
from moppa.record.trained_file import results_folders
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError
from moppa.utils.network import check_reachable, interruptible

HUB = "hf://"
FILES = {"timm": "model.safetensors", "peft": ".", "onnx": "model.onnx"}  # by format, in the repository


def repository_of(target: str) -> str:
    """Returns USER/REPO of hf://USER/REPO.

    Raises:
        UserError: if it has another form.
    """
    name = target.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, flags=re.ASCII) or ".." in name or "--" in name:
        raise UserError(f"{target}: expected hf://USER/REPO, of letters, digits and . _ -")
    return name


def write_repository(
    path: Path, out: Path, repository: str, *, formats: Sequence[str], weights: str | None = None
) -> list[str]:
    """Writes the files of a repository to a folder and returns the formats in it.

    Without `formats` these are timm and peft as far as they can hold the method, and ONNX if neither can.

    Raises:
        UserError: if the cell has no trained tensors or predictions, or a format cannot hold the method.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: choose a new one")
    results, record = results_folders(path)[0]
    written = []
    for name in formats or ("timm", "peft"):
        finished = load_finished(path, weights=weights)  # a format merges the method into the model
        try:
            FORMATS[name].write(finished, out / FILES[name])
        except UserError:
            if formats:
                raise
            continue
        written.append(name)
    if not written:
        return write_repository(path, out, repository, formats=["onnx"], weights=weights)
    finished = load_finished(path, weights=weights)
    if "timm" in written:
        write_timm_config(finished, out / "config.json")
    copy_files(record_files(record, results, with_tensors=True), results, out)
    with atomic_write(out / "README.md") as temporary:
        temporary.write_text(render_card(finished.record, path, repository, written), encoding="utf-8")
    return written


def write_timm_config(finished: Finished, out: Path) -> None:
    """Writes the config.json with which `timm.create_model("hf-hub:...")` builds the model."""
    record = finished.record
    preprocess, size = record["preprocess"], finished.image_size
    arguments = {name: value for name, value in timm_settings(record).items() if name not in ("num_classes",)}
    data: dict[str, Any] = {
        "input_size": (3, size, size),
        "mean": tuple(preprocess["mean"]),
        "std": tuple(preprocess["std"]),
        "interpolation": preprocess["interpolation"],
        "crop_pct": 1.0,
        "crop_mode": "squash",  # images are resized to a square
    }
    with atomic_write(out) as temporary:
        model = plain_model(record)
        save_config_for_hf(model, str(temporary), model_config={"pretrained_cfg": data}, model_args=arguments)


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads a folder as a repository of the hub, which is created if it does not exist, and returns its address.

    Raises:
        UserError: if the hub cannot be reached or refuses.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    address = f"{api.endpoint}/{repository}"
    try:
        check_reachable(api.endpoint)
        interruptible(api.create_repo, repository, private=private, exist_ok=True)
        message = f"Exported by moppa, timm {timm.__version__}"
        interruptible(api.upload_folder, repo_id=repository, folder_path=folder, commit_message=message)
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"{address} was not written ({reason}); log in with `hf auth login`, or give a folder in place of "
            f"{HUB}{repository} and upload it elsewhere"
        ) from error
    return address
