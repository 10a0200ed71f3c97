"""A finished cell -> the state dict of a stock timm model, its method folded into the weights."""

from pathlib import Path

import safetensors
import safetensors.torch
import timm
import torch
from omegaconf import OmegaConf
from torch import nn

from moppa.backbone.model import compute_weights_sha256
from moppa.data import cache
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.record.schema import read_record
from moppa.train.loop import iterate_batches
from moppa.utils.atomic import atomic_write, sha256_file
from moppa.utils.config import call_with_supported, instantiate
from moppa.utils.errors import UserError
from moppa.utils.seeds import generator_for

TOLERANCE = 1e-4  # of logits, relative to the largest: float32 sums in another order


def export(path: Path, out: Path, *, weights: str | None = None) -> None:
    """Writes the merged weights of a record's cell as safetensors; plain timm loads them strictly.

    `weights` is the backbone's checkpoint where it no longer lies where the record says.

    Raises:
        UserError: where the trained tensors were not kept or are not the record's, the backbone's weights are others,
            or the method does not fold into the weights.
    """
    written = read_record(path)
    config = OmegaConf.create(written["config"])
    if weights is not None:
        config.backbone.weights = weights
    backbone = instantiate(config, "backbone")
    if (found := compute_weights_sha256(backbone)) != written["weights"]["sha256"]:
        raise UserError(
            f"{path} was trained from weights of sha256 {written['weights']['sha256'][:12]}, these are {found[:12]}: "
            f"give the right file with --weights FILE"
        )
    task = instantiate(config, "task")
    model = backbone.build(num_classes=task.num_classes, drop_path=0.0, generator=generator_for(0, "head")).eval()
    attach = instantiate(config, "method.attach", _partial_=True)
    preprocess, device = backbone.preprocess(model), torch.device("cpu")
    sight = {"size": preprocess.size, "interpolation": preprocess.interpolation}
    source, protocol = instantiate(config, "data"), instantiate(config, "protocol")
    call_with_supported(
        attach,
        model,
        generator=generator_for(written["seed"], "method"),
        examples=lambda: iterate_batches(
            cache.load_split(task, protocol.train, source, **sight), config.train.batch_size, preprocess, device
        ),
    )
    load_trained(model, path, written)

    size = backbone.image_size
    images = torch.randn(2, 3, size, size, generator=generator_for(0, "export"))
    with torch.no_grad():
        expected = model(images)
        merge(model)
        stock = stock_model(written, size)
        if model.state_dict().keys() != stock.state_dict().keys():
            raise UserError(
                f"{written['method']} does not fold into the weights of a stock model: it changes what flows "
                f"between the layers; its trained tensors are {trained_path(path)}"
            )
        stock.load_state_dict(model.state_dict())
        difference = float((stock(images) - expected).abs().max() / expected.abs().max())
    assert difference < TOLERANCE, f"merging changed the logits by {difference:.1e} of the largest"
    facts = {
        "timm": written["config"]["backbone"]["timm"],
        "num_classes": str(stock.num_classes),
        "image_size": str(size),
        "method": written["method"],
        "task": written["task"],
        "key": written["key"],
        "seed": str(written["seed"]),
    }
    with atomic_write(out) as temporary:
        tensors = {name: tensor.contiguous() for name, tensor in stock.state_dict().items()}
        safetensors.torch.save_file(tensors, temporary, metadata=facts)


def trained_path(path: Path) -> Path:
    """Where the trained tensors of a record's cell lie: under checkpoints/ as the record under records/."""
    root = next((parent for parent in path.resolve().parents if parent.name == "records"), None)
    if root is None:
        raise UserError(
            f"{path} does not lie in a results folder (.../records/...): give the record where it was written"
        )
    return root.parent / "checkpoints" / path.resolve().relative_to(root).with_suffix(".safetensors")


def load_trained(model: nn.Module, path: Path, written: dict) -> None:
    """Copies the trained tensors of a record's cell into the model with its method attached."""
    file = trained_path(path)
    if not file.is_file():
        raise UserError(
            f"{file} is not there: the cell ran with run.keep_trained=false or on another machine; delete {path} "
            f"and run the cell again"
        )
    if sha256_file(file) != written.get("trained", {}).get("sha256"):
        raise UserError(f"{file} is not what {path} was read from: delete both and run the cell again")
    tensors = safetensors.torch.load_file(file)
    wanted = trainable_parameters(model)
    assert tensors.keys() == wanted.keys(), "the same config attaches the same tensors"
    with torch.no_grad():
        for name, tensor in tensors.items():
            wanted[name].copy_(tensor)


def stock_model(written: dict, size: int) -> nn.Module:
    """What `timm.create_model` gives for the record's backbone, without any of our code."""
    config = written["config"]["backbone"]
    settings = {} if config["pool"] is None else {"global_pool": config["pool"]}
    if timm.get_pretrained_cfg_value(config["timm"], "fixed_input_size"):
        settings["img_size"] = size
    num_classes = written["config"]["task"]["num_classes"]
    return timm.create_model(config["timm"], num_classes=num_classes, **settings).eval()
