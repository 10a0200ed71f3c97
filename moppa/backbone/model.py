"""Builds a frozen pretrained timm model with a fresh head from `configs/backbone/NAME.yaml`."""

import moppa.backbone.lean_timm  # before timm

# isort: split

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import nn

import moppa.backbone.vit_micro  # noqa: F401 - registers vit_micro in timm
from moppa.backbone.preprocess import Preprocess
from moppa.backbone.quantize import BITS
from moppa.backbone.weights import load_weights
from moppa.backbone.weights_file import RANDOM, download_weights, existing_weights_path, file_sha256
from moppa.utils import validate
from moppa.utils.errors import SettingError
from moppa.utils.seeds import derive_seed, seeded


class CacheKey(NamedTuple):
    """Identifies a backbone and its weights file within a process."""

    fields: str  # of the backbone, as JSON
    file: Path | None
    modified_ns: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained timm model.

    Args:
        name: Name in records and tables.
        timm: Name of the model in timm.
        image_size: Height and width of the images in pixels.
        pool: "token", "avg", or None for the pooling of the checkpoint.
        weights: None for timm's weights on the Hugging Face hub, a file (safetensors, npz, pth), "package:FILE" for a
            file of this package, or "random" for seeded random weights (for tests and benchmarks).
        untrained: Modules that are not in the checkpoint and keep their initial weights.
        unused: Modules of the checkpoint that are not in the model.
        quantize: "int8", "int4" or "mixed" for linear layers whose weights have so few bits, or None.
        quantize_bits: The mean of "mixed", which chooses 4 or 8 bits for each layer on the training images, or None.
        quantize_rounds: Rounds of the layer-wise calibration on the training images; 0 for none.

    Raises:
        SettingError: If timm has no such model or another value is wrong.
    """

    name: str
    timm: str
    image_size: int
    pool: str | None
    weights: str | None
    untrained: Sequence[str]
    unused: Sequence[str]
    quantize: str | None
    quantize_bits: float | None
    quantize_rounds: int

    def __post_init__(self) -> None:
        for name in ("name", "timm", *(["weights"] if self.weights is not None else [])):
            validate.text(name, getattr(self, name))
        for name in ("untrained", "unused"):
            validate.texts(name, getattr(self, name))
        validate.integer("image_size", self.image_size, minimum=1)
        if self.quantize is not None and str(self.quantize) not in BITS:
            raise SettingError("quantize", f"={self.quantize!r}: it must be one of {', '.join(BITS)}, or null")
        if validate.integer("quantize_rounds", self.quantize_rounds, minimum=0) and self.quantize is None:
            raise SettingError(
                "quantize_rounds", f"={self.quantize_rounds} calibrates nothing with quantize=null: set it to 0"
            )
        if self.quantize == "mixed":
            validate.number("quantize_bits", self.quantize_bits, minimum=min(BITS["mixed"]), maximum=max(BITS["mixed"]))
        elif self.quantize_bits is not None:
            raise SettingError("quantize_bits", f"={self.quantize_bits} needs quantize=mixed: set it to null")
        if self.timm not in timm_models():
            raise SettingError(
                "timm", f"={self.timm!r} is not a model of timm {timm.__version__}; see timm.list_models()"
            )

    @property
    def is_calibrated(self) -> bool:
        """Whether the quantized weights depend on training images."""
        return self.quantize_rounds > 0 or self.quantize == "mixed"

    def weights_file(self) -> Path | None:
        """Returns the local checkpoint, downloaded if `weights` is None; None if the weights are random.

        Raises:
            SettingError: If the file does not exist or cannot be downloaded.
        """
        if self.weights == RANDOM:
            return None
        if self.weights is None:
            return download_weights(self.timm)
        return existing_weights_path(self.weights)

    def create_model(self, *, drop_path: float) -> nn.Module:
        """Returns the model without a head and without pretrained weights; its seeded weights are always the same.

        Raises:
            SettingError: If the model lacks this pooling or its patches do not divide the image size.
        """
        if self.pool not in (None, "token", "avg"):  # not left to timm, whose asserts are absent under python -O
            raise self.pool_error()
        settings: dict[str, Any] = {} if self.pool is None else {"global_pool": self.pool}
        if timm.get_pretrained_cfg_value(self.timm, "fixed_input_size"):  # a ConvNeXt takes any size
            settings["img_size"] = self.image_size
        with seeded(derive_seed(0, "backbone")):
            try:
                model = timm.create_model(
                    self.timm,
                    pretrained=False,
                    num_classes=0,
                    drop_path_rate=drop_path,
                    pretrained_cfg_overlay={"input_size": (3, self.image_size, self.image_size)},
                    **settings,
                )
            except AssertionError as error:
                raise self.pool_error() from error
            except Exception as error:
                raise SettingError(
                    "backbone.timm",
                    f"={self.timm} cannot be created with image_size={self.image_size} and pool={self.pool} "
                    f"({type(error).__name__}: {error}); choose another model or other settings",
                ) from error
        check_image_size(self.image_size, model)
        return model

    def pool_error(self) -> SettingError:
        """Returns the error for a pooling that the model lacks."""
        return SettingError(
            "backbone.pool", f"={self.pool!r} does not go with {self.timm}: choose token or avg, or null for its own"
        )

    def load(self, *, drop_path: float) -> nn.Module:
        """Returns the frozen model with its pretrained weights, without a head.

        Raises:
            SettingError: If the weights do not fit; it names the first keys that are missing, unexpected or of another
                shape.
        """
        return copy.deepcopy(load_pretrained(self.cache_key(), drop_path))

    def build(self, *, num_classes: int, drop_path: float, generator: torch.Generator | None) -> nn.Module:
        """Returns the frozen pretrained model with a trainable head, drawn from `generator`.

        Raises:
            SettingError: As `load`, and if the model has no linear head.
        """
        model: Any = self.load(drop_path=drop_path)
        with seeded(0):  # the draws are replaced below
            model.reset_classifier(num_classes)
        head = model.get_classifier()
        if not isinstance(head, nn.Linear):
            raise SettingError(
                "backbone.timm",
                f"={self.timm} has no single linear head, but {type(head).__name__}: choose another model",
            )
        # std 0.02 and zero bias, as in timm's vision transformers
        nn.init.trunc_normal_(head.weight, std=0.02, generator=generator)
        nn.init.zeros_(head.bias)
        return model

    def preprocess(self, model: Any) -> Preprocess:
        """Returns the normalization and interpolation of timm's config for this checkpoint, at this image size."""
        data_config = resolve_model_data_config(model)
        return Preprocess(
            size=self.image_size,
            mean=tuple(data_config["mean"]),
            std=tuple(data_config["std"]),
            interpolation=data_config["interpolation"],
            pool=str(getattr(model, "global_pool", None) or model.head.global_pool.pool_type),
        )

    def cache_key(self) -> CacheKey:
        """Returns the key under which this process caches the model and its hash."""
        file = self.weights_file()
        status = None if file is None else file.stat()
        fields = json.dumps(asdict(self), sort_keys=True)
        return CacheKey(fields, file, status.st_mtime_ns if status else 0, status.st_size if status else 0)


@lru_cache
def timm_models() -> frozenset[str]:
    """Returns the names of timm's models, with and without the tags of their weights."""
    return frozenset(timm.list_models(pretrained=True) + timm.list_models())


def check_image_size(image_size: int, model: Any) -> None:
    """Raises if the patches do not divide the image size; timm would ignore the pixels at the border."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None) or model.feature_info[-1]["reduction"]
    patch = patch[0] if isinstance(patch, Sequence) else int(patch)
    if image_size % patch:
        lower = image_size // patch * patch
        nearest = " and ".join(str(size) for size in (lower, lower + patch) if size)
        raise SettingError(
            "backbone.image_size",
            f"={image_size} is not a multiple of the {patch} px patch; the nearest multiples are {nearest}",
        )


@lru_cache(maxsize=1)
def load_pretrained(key: CacheKey, drop_path: float) -> nn.Module:
    """Returns the cached frozen model of this process; callers copy it and do not change it."""
    backbone = Backbone(**json.loads(key.fields))
    model = backbone.create_model(drop_path=drop_path)
    if key.file is not None:
        try:
            load_weights(model, key.file, untrained=backbone.untrained, unused=backbone.unused)
        except SettingError as error:
            raise error.inside("backbone") from error
    return model.requires_grad_(False)


def compute_weights_sha256(backbone: Backbone) -> str:
    """Returns the sha256 of the weights file, or of the tensors if they are random; cached per process."""
    return cached_sha256(backbone.cache_key())


@lru_cache
def cached_sha256(key: CacheKey) -> str:
    """Returns the hash of a file that did not change since."""
    if key.file is not None:
        return file_sha256(key.file, key.modified_ns, key.num_bytes)
    digest = hashlib.sha256()
    model = Backbone(**json.loads(key.fields)).create_model(drop_path=0.0)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
