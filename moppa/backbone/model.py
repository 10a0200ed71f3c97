"""timm name + weights -> a frozen vision transformer with a fresh head, and what its checkpoint expects of an image."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

import moppa.backbone.vit_micro  # timm knows vit_micro once this is imported
from moppa.backbone.weights import load_weights
from moppa.utils import validate
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError
from moppa.utils.matmul import as_chosen
from moppa.utils.seeds import derive_seed, seeded

RANDOM = "random"
PACKAGED = "package:"
ASSETS = Path(moppa.backbone.vit_micro.__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What the checkpoint was trained to see: square images of `size` pixels, (x / 255 - mean) / std per channel.

    `pool` is how the model turns its tokens into the one vector that the head reads.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    pool: str

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) -> a new float32 (B, 3, S, S) on the same device; the input is left as it was."""
        # a row of pixels at once: channel by channel the same took three times as long
        mean, std = (on_device(values * images.shape[2], images.device) for values in (self.mean, self.std))
        rows = images.flatten(2).to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)
        return rows.view(images.shape).permute(0, 3, 1, 2)


@lru_cache
def on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A vector that is sent to a device once a process: no step waits for it."""
    with torch.inference_mode(False):  # wherever it is first asked for, a step may use it too
        return torch.tensor(values, device=device)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained timm model; every field comes from `configs/backbone/NAME.yaml`.

    `weights` is None (the hub's), a file (safetensors, npz, pth), "package:FILE" (one that comes with this package) or
    "random" (seeded, for tests and benchmarks).
    `pool` is None for the checkpoint's own way of pooling, else "token" or "avg".
    `untrained` names modules that the checkpoint has no weights for and that keep their initial ones (a LayerNorm
    that starts as the identity); `unused` names modules of the checkpoint that this model does not have.
    """

    name: str
    timm: str
    image_size: int
    pool: str | None
    weights: str | None
    untrained: Sequence[str]
    unused: Sequence[str]

    def __post_init__(self) -> None:
        validate.integer("backbone.image_size", self.image_size, minimum=1)
        if self.timm not in timm.list_models(pretrained=True) + timm.list_models():
            raise UserError(
                f"backbone.timm={self.timm!r} is not a model of timm {timm.__version__}; see timm.list_models()"
            )

    def identity(self) -> tuple[Any, ...]:
        """What tells this backbone from others: its fields, and the weights file with its age and length."""
        file = self.weights_file()
        facts = () if file is None else (file.stat().st_mtime_ns, file.stat().st_size)
        return json.dumps(asdict(self), sort_keys=True), file, *facts

    def weights_file(self) -> Path | None:
        """The checkpoint on this machine, fetched from the hub where no file is named; None for random weights."""
        if self.weights == RANDOM:
            return None
        if self.weights is None:
            return self._fetched()
        file = resolve_weights_path(self.weights)
        if not file.is_file():
            raise UserError(f"backbone.weights={self.weights}: there is no such file (looked in {Path.cwd()})")
        return file

    def _fetched(self) -> Path:
        from huggingface_hub import hf_hub_download  # late: only where the hub is asked
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        repository = timm.get_pretrained_cfg_value(self.timm, "hf_hub_id")
        if repository is None:
            raise UserError(f"backbone.timm={self.timm} has no weights on the hub; give a file: backbone.weights=FILE")
        try:
            return Path(hf_hub_download(repository, "model.safetensors"))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(
                f"backbone.weights: cannot fetch {repository} ({type(error).__name__}: {str(error).splitlines()[0]}); "
                f"connect once, or give a file: backbone.weights=FILE"
            ) from error

    def build(self, *, num_classes: int, drop_path: float, generator: torch.Generator | None) -> nn.Module:
        """The frozen pretrained model with a trainable head of `num_classes`, drawn from `generator`.

        Raises:
            UserError: for an image size that the patch does not divide, a pooling that the model lacks, or weights
                that do not fit, naming the first keys missing, unexpected or of another shape.
        """
        model = copy.deepcopy(load_pretrained(drop_path, *self.identity()))  # cells of one process share what is loaded
        with seeded(0):  # the draws that follow replace these
            model.reset_classifier(num_classes)
        head = model.get_classifier()
        # std 0.02 and zero bias, as timm starts a vision transformer's head
        nn.init.trunc_normal_(head.weight, std=0.02, generator=generator)
        nn.init.zeros_(head.bias)
        return model

    def bare(self, *, drop_path: float) -> nn.Module:
        """The model without a head, with the same seeded random weights each time."""
        settings: dict[str, Any] = {} if self.pool is None else {"global_pool": self.pool}
        if timm.get_pretrained_cfg_value(self.timm, "fixed_input_size"):  # a ConvNeXt takes any size, and is not told
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
                raise UserError(
                    f"backbone.pool={self.pool!r} does not go with {self.timm}: choose token or avg"
                ) from error
        check_divides(self.image_size, model)
        return model

    def preprocess(self, model: nn.Module) -> Preprocess:
        """Normalization and interpolation from the checkpoint's own timm config, at this backbone's image size."""
        facts = resolve_model_data_config(model)
        return Preprocess(
            size=self.image_size,
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            interpolation=facts["interpolation"],
            pool=str(getattr(model, "global_pool", None) or model.head.global_pool.pool_type),
        )


def resolve_weights_path(weights: str) -> Path:
    """The file that `backbone.weights` names, in this package's assets where it says so."""
    if weights.startswith(PACKAGED):
        return ASSETS / weights.removeprefix(PACKAGED)
    return Path(weights).expanduser()


def check_divides(image_size: int, model: nn.Module) -> None:
    """timm would silently leave out the pixels beyond the last whole patch."""
    side = model.patch_embed.patch_size[0] if hasattr(model, "patch_embed") else model.feature_info[-1]["reduction"]
    if image_size % side:
        low = image_size // side * side
        near = " and ".join(str(size) for size in (low, low + side) if size)
        raise UserError(
            f"backbone.image_size={image_size} is not a multiple of the {side} px patch; the nearest that fit: {near}"
        )


def compute_weights_sha256(backbone: Backbone) -> str:
    """The sha256 of the weights file, or of the generated tensors where they are random; computed once a process."""
    return cached_sha256(*backbone.identity())


@lru_cache
def cached_sha256(described: str, file: Path | None, *_: int) -> str:
    """The digest of a file that is as old and as long as it was."""
    if file is not None:
        return sha256_file(file)
    total = hashlib.sha256()
    for name, tensor in sorted(Backbone(**json.loads(described)).bare(drop_path=0.0).state_dict().items()):
        total.update(name.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


@lru_cache(maxsize=1)
def load_pretrained(drop_path: float, described: str, file: Path | None, *_: int) -> nn.Module:
    """The model without a head and with its weights: the one that this process has, which nobody may touch."""
    backbone = Backbone(**json.loads(described))
    model = backbone.bare(drop_path=drop_path)
    if file is not None:
        load_weights(model, file, untrained=backbone.untrained, unused=backbone.unused)
    return as_chosen(model).requires_grad_(False)
