"""Where a backbone's checkpoint file is. Imports no torch, so that a finished cell is found quickly."""

import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from moppa.utils.atomic import sha256_file
from moppa.utils.errors import SettingError, first_line
from moppa.utils.network import PROXY_HINT, NoAnswerError, check_reachable, interruptible
from moppa.utils.paths import user_path

RANDOM = "random"
PACKAGED = "package:"
ASSETS = Path(__file__).parent / "assets"
HUB_FILE = "model.safetensors"


def weights_path(weights: str) -> Path:
    """Returns the file that `backbone.weights` names, in the assets of this package for "package:FILE"."""
    if weights.startswith(PACKAGED):
        return ASSETS / weights.removeprefix(PACKAGED)
    return user_path(weights)


def existing_weights_path(weights: str) -> Path:
    """Returns `weights_path`.

    Raises:
        SettingError: If there is no such file.
    """
    file = weights_path(weights)
    if not file.is_file():
        raise SettingError("backbone.weights", f"={weights}: there is no such file (looked in {Path.cwd()})")
    return file


def local_weights_sha256(backbone: Mapping[str, Any]) -> str | None:
    """Returns the sha256 of the file that a backbone's config names; None if they are random or come from the hub."""
    weights = backbone.get("weights")
    if not isinstance(weights, str) or weights == RANDOM:
        return None
    file = existing_weights_path(weights)
    return file_sha256(file, file.stat().st_mtime_ns, file.stat().st_size)


@lru_cache
def file_sha256(file: Path, modified_ns: int, num_bytes: int) -> str:  # noqa: ARG001 - they identify the content
    """Returns the sha256 of a file, computed once per process and version of the file."""
    return sha256_file(file)


def download_weights(timm_name: str) -> Path:
    """Returns timm's checkpoint from the local cache of the Hugging Face hub, or downloads it.

    Raises:
        SettingError: If timm has no weights for the model, or the hub cannot be reached.
    """
    import timm  # both are slow to import, and rarely needed
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    repository = timm.get_pretrained_cfg_value(timm_name, "hf_hub_id")
    if repository is None:
        raise SettingError(
            "backbone.timm", f"={timm_name} has no weights on the hub; give a file: backbone.weights=FILE"
        )
    name = timm.get_pretrained_cfg_value(timm_name, "hf_hub_filename") or HUB_FILE
    cached = try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    try:
        if not constants.HF_HUB_OFFLINE:
            print(f"downloading the weights {repository} from the Hugging Face hub", file=sys.stderr)
            check_reachable(f"{constants.ENDPOINT}/{repository}/resolve/main/{name}")
        return Path(interruptible(hf_hub_download, repository, name))
    except Exception as error:
        line = first_line(error, otherwise="no reason given")
        reason = str(error) if isinstance(error, NoAnswerError) else f"{type(error).__name__}: {line}"
        raise SettingError(
            "backbone.weights",
            f": cannot download {repository} ({reason}); connect once, copy the hub's cache from a machine that has it "
            f"(HF_HUB_CACHE=DIR HF_HUB_OFFLINE=1), or give a file: backbone.weights=FILE; {PROXY_HINT}",
        ) from error
