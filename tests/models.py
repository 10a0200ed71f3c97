"""Small timm models with a method attached, for tests of every method."""

import functools
from types import SimpleNamespace

import timm
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block
from torch import nn

from moppa.peft.collect import after_step, penalty, trainable_parameters
from moppa.peft.method import attach_method
from moppa.utils.config import instantiate
from moppa.utils.seeds import generator_for, seeded
from tests.conftest import config_of

BACKBONES = {
    "class token": lambda: timm.create_model("test_vit", depth=3, img_size=64, num_classes=10),
    "no prefix": lambda: timm.create_model(
        "test_vit", depth=2, img_size=64, num_classes=10, class_token=False, global_pool="avg"
    ),
    "registers": lambda: timm.create_model("test_vit", depth=2, img_size=64, num_classes=10, reg_tokens=4),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        num_classes=10,
        window_size=4,
        embed_dim=16,
        depths=(1, 2),
        num_heads=(2, 4),
        drop_path_rate=0.0,
    ),
    "convnext": lambda: timm.create_model(
        "test_convnext", num_classes=10, pretrained_cfg_overlay={"input_size": (3, 64, 64)}
    ),
}
FAMILIES = {"class token": "ViT", "no prefix": "ViT", "registers": "ViT", "swin": "Swin", "convnext": "ConvNeXt"}


def frozen_model(backbone="class token", seed=0):
    """Returns a frozen stock model with the same weights each time, and a trainable head that the seed decides."""
    with seeded(1):
        model = BACKBONES[backbone]().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))  # no norm or bias is at its initial value
    head = model.get_classifier().requires_grad_(True)
    torch.nn.init.normal_(head.weight, std=0.1, generator=generator_for(seed, "head"))
    return model


@functools.cache
def method_from_yaml(method):
    """Returns the `attach` function of a method with the settings of its YAML."""
    return instantiate(config_of("task=eurosat", f"method={method}"), "method.attach", _partial_=True)


def attach(model, method, seed=0):
    """Attaches a method by name."""
    generator = generator_for(seed, "method")
    return attach_method(model, method_from_yaml(method), generator=generator, examples=lambda: [batch(seed=3)])


def model_with(method, backbone="class token", seed=0):
    """Returns a small model with a method attached, before training."""
    return attach(frozen_model(backbone, seed=seed), method, seed=seed)


def batch(seed=1, count=6):
    """Returns images (B, 3, 64, 64) and labels (B,)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 64, 64, generator=generator), torch.arange(count) % 10


@torch.no_grad()
def logits_of(model):
    """Returns the logits of a batch in eval mode."""
    return model.eval()(batch(seed=2)[0])


def perturbed(model, size=0.05):
    """Moves every trainable tensor away from its initial value, which often is zero."""
    generator = generator_for(7, "perturbed")
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def take_steps(model, count=2):
    """Takes plain training steps and returns the largest gradient that each trainable tensor had."""
    trained = trainable_parameters(model)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    largest = dict.fromkeys(trained, 0.0)
    model.train()
    images, labels = batch()
    for step in range(count):
        optimizer.zero_grad()
        (F.cross_entropy(model(images), labels) + penalty(model, 0.0)).backward()
        for name, parameter in trained.items():
            largest[name] = max(largest[name], 0.0 if parameter.grad is None else float(parameter.grad.abs().max()))
        optimizer.step()
        after_step(model, (step + 1) / count)
    return largest


def trainable_bytes(model):
    return {name: parameter.detach().numpy().tobytes() for name, parameter in trainable_parameters(model).items()}


def unchanged(parameters, before):
    return {name for name, parameter in parameters.items() if torch.equal(parameter, before[name])}


def trained_with(method, backbone, seed=0):
    """Returns a model that has a method attached and took two steps, and what was seen on the way."""
    seen = SimpleNamespace(method=method, backbone=backbone, model=frozen_model(backbone, seed=seed))
    head = {id(parameter) for parameter in seen.model.get_classifier().parameters()}
    seen.pretrained = {name: tensor for name, tensor in seen.model.named_parameters() if id(tensor) not in head}
    before = {name: tensor.detach().clone() for name, tensor in seen.pretrained.items()}
    seen.stock_names, seen.stock_logits = set(seen.model.state_dict()), logits_of(seen.model)
    attach(seen.model, method, seed=seed)
    seen.unchanged_by_attaching = unchanged(seen.pretrained, before)
    seen.initial, seen.initial_logits = trainable_bytes(seen.model), logits_of(seen.model)
    with seeded(seed):
        seen.largest_gradients = take_steps(seen.model)
    seen.unchanged_by_training = unchanged(seen.pretrained, before)
    seen.trained, seen.logits = trainable_bytes(seen.model), logits_of(seen.model)
    return seen


def with_drop_path(model, drop_prob):
    for module in model.modules():
        if isinstance(module, Block):
            module.drop_path1, module.drop_path2 = DropPath(drop_prob), DropPath(drop_prob)
    return model


def without_dropout(model):
    """Removes dropout, of which two models would draw different numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model
