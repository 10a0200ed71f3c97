"""Small timm models with a method attached, for tests of every method."""

import functools

import timm
import torch

from moppa.peft.collect import trainable_parameters
from moppa.peft.method import attach_method
from moppa.utils.config import instantiate
from moppa.utils.seeds import generator_for, seeded
from tests.conftest import config_of

BACKBONES = {
    "class token": lambda: timm.create_model("test_vit", depth=3, img_size=64, num_classes=10),
    "no prefix": lambda: timm.create_model(
        "test_vit", depth=3, img_size=64, num_classes=10, class_token=False, global_pool="avg"
    ),
    "registers": lambda: timm.create_model("test_vit", depth=3, img_size=64, num_classes=10, reg_tokens=4),
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
