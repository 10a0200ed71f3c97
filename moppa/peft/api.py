"""Any method on any timm model, without the harness: attach, then save and load what was trained."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from moppa.peft.collect import head_parameter_ids, persistent_buffers
from moppa.peft.method import attach_method
from moppa.utils import validate
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import SettingError, UserError
from moppa.utils.flatten import HYDRA_KEYS
from moppa.utils.method_yaml import read_method_yaml
from moppa.utils.paths import CONFIGS, user_path
from moppa.utils.provenance import version_of
from moppa.utils.renamed import locate

WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")  # what torch adds to names in blocks
Examples = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def attach(
    model: nn.Module,
    method: str | Mapping[str, Mapping[str, Any]] = "moppa",
    *,
    generator: torch.Generator | None = None,
    examples: Examples | None = None,
    **settings: Any,
) -> nn.Module:
    """Freezes a timm model, attaches a method, and leaves the method's parameters and the head trainable.

    Args:
        model: a model of `timm.create_model`, which is changed in place and returned.
        method: a YAML of `configs/method/`: "moppa", "lora", "ssf", ...; or several, attached in this order, with the
            settings of each: `{"lora": {"rank": 4}, "adaptformer": {"layers": [9, 10, 11]}}`. `layers` are its blocks.
        generator: a CPU generator for the method's initial values; None takes torch's.
        examples: returns batches (images, labels) of the training images, normalized as the model expects them. Only
            SPT needs them.
        settings: replace those of the YAML, as in `rank=4`.

    Raises:
        UserError: if there is no such method or setting, a value is wrong, the model does not suit the method, or it
            has a method already.
    """
    timm_model: Any = unwrap(model, "pretrained_cfg")
    if hasattr(timm_model, "moppa_method"):
        raise UserError(f"this model has {timm_model.moppa_method} attached already: attach once, to a fresh model")
    if isinstance(method, Mapping):
        method, settings = "compose", {"methods": composed(method), **settings}
    function, values = read_method(method, settings)
    stock = set(timm_model.state_dict())
    model.requires_grad_(False)
    timm_model.get_classifier().requires_grad_(True)
    examples = examples or no_examples(method)
    with torch.enable_grad():  # SPT compares gradients
        attach_method(timm_model, partial(function, **values), generator=generator, examples=examples)
    head = head_parameter_ids(timm_model)
    timm_model.moppa_method, timm_model.moppa_settings = method, values  # `save` writes them
    timm_model.moppa_tensors = [
        *(name for name, tensor in timm_model.named_parameters() if tensor.requires_grad and id(tensor) not in head),
        *(name for name in persistent_buffers(timm_model) if name not in stock),
    ]
    return model


def read_method(method: str, settings: Mapping[str, Any]) -> tuple[Callable[..., None], dict[str, Any]]:
    """Returns the function of a method, and its settings: those of its YAML with `settings` in their place."""
    names = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
    validate.one_of("method", method, names)
    values: dict[str, Any] = read_method_yaml(CONFIGS / "method" / f"{method}.yaml")["attach"]
    function = locate(values["_target_"])
    values = {name: value for name, value in values.items() if name not in HYDRA_KEYS}
    for name in settings:
        if name not in values:
            choices = f"choose from {', '.join(values)}" if values else f"{method} has none"
            raise SettingError(name, f": there is no such setting; {choices}")
    return function, {**values, **settings}


def composed(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns several methods as `moppa.peft.compose` takes them, with the settings of each in place of its YAML's."""
    parts = {}
    for letter, (method, settings) in zip(ascii_lowercase, methods.items(), strict=False):
        own = {name: value for name, value in settings.items() if name != "layers"}
        _, values = read_method(method, own)
        content = read_method_yaml(CONFIGS / "method" / f"{method}.yaml")
        attach = {"_target_": content["attach"]["_target_"], **values}
        parts[f"{letter}_{method}"] = {**content, "attach": attach, "layers": settings.get("layers")}
    return parts


def no_examples(method: str) -> Examples:
    """Returns a function that raises `UserError`, for a method that reads images and got none."""

    def examples() -> Iterable[tuple[Tensor, Tensor]]:
        raise UserError(f"{method} reads training images: pass examples=lambda: batches of (images, labels)")

    return examples


def save(model: nn.Module, path: str | Path) -> None:
    """Writes what the method has trained as safetensors, with the settings that `load` needs. The head is not included.

    The model may be inside of torch.compile, DataParallel or another wrapper, which leaves no trace in the file.

    Raises:
        UserError: if no method is attached, it trains the head alone, or it was merged.
    """
    timm_model: Any = unwrap(model, "moppa_method")
    if not hasattr(timm_model, "moppa_method"):
        raise UserError("this model has no method to save: call moppa.attach(model) first")
    method, tensors = timm_model.moppa_method, method_tensors(timm_model)
    if not timm_model.moppa_tensors:
        raise UserError(f"{method} trains the head alone, so there is nothing to save; save model.get_classifier()")
    if missing := [name for name in timm_model.moppa_tensors if name not in tensors]:
        raise UserError(f"the model no longer has {missing[0]}: save {method} before moppa.merge")
    metadata = {
        "method": method,
        "version": version_of("moppa") or "unknown",  # a checkout that is not installed
        "backbone": backbone_name(timm_model),
        "settings": json.dumps(timm_model.moppa_settings, sort_keys=True),
    }
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with atomic_write(user_path(path)) as temporary:
        safetensors.torch.save_file(contiguous, temporary, metadata=metadata)


def load(model: nn.Module, path: str | Path, *, examples: Examples | None = None) -> nn.Module:
    """Attaches a saved method to a fresh model of `timm.create_model` and freezes everything else but the head.

    `examples` are those of `attach`, for a method that reads images.

    Raises:
        UserError: if the file is not one of `save`, or belongs to another backbone or image size.
    """
    path = user_path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); give a file that moppa.save wrote") from error
    if not {"method", "backbone", "settings"} <= metadata.keys():
        raise UserError(f"{path} holds no method; give a file that moppa.save wrote")
    timm_model = unwrap(model, "pretrained_cfg")
    if metadata["backbone"] != backbone_name(timm_model):
        raise UserError(
            f"{path} belongs to the backbone {metadata['backbone']}, not to {backbone_name(timm_model)}: "
            f"create a model of {metadata['backbone']}"
        )
    attach(timm_model, metadata["method"], examples=examples, **json.loads(metadata["settings"]))
    expected = method_tensors(timm_model)
    names = expected.keys() | saved.keys()
    mismatched = sorted(name for name in names if describe_shape(expected, name) != describe_shape(saved, name))
    if mismatched:
        name = mismatched[0]
        raise UserError(
            f"{path} does not fit: {name} is {describe_shape(saved, name)} in the file and "
            f"{describe_shape(expected, name)} in the model ({len(mismatched)} tensors differ); "
            f"create the model with the image size that {metadata['method']} was trained at"
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(saved[name])
    return model


def unwrap(model: nn.Module, attribute: str) -> nn.Module:
    """Returns the module inside of wrappers such as torch.compile that itself has an attribute, or else the model."""
    return next((module for module in model.modules() if attribute in vars(module)), model)


def method_tensors(model: Any) -> dict[str, Tensor]:
    """Returns the tensors of the attached method by their names in a model whose blocks nobody has wrapped."""
    tensors = {**dict(model.named_parameters()), **persistent_buffers(model)}  # names a shared parameter once
    names = set(model.moppa_tensors)
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): tensors[name] for name in tensors}
    return {name: tensor for name, tensor in plain.items() if name in names}


def backbone_name(model: nn.Module) -> str:
    """Returns the timm name of a model, with the tag of its weights."""
    config: Any = model.pretrained_cfg
    return f"{config['architecture']}.{config['tag']}" if config.get("tag") else str(config["architecture"])


def describe_shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    """Returns the shape of a tensor, or "missing"."""
    return tuple(tensors[name].shape) if name in tensors else "missing"
