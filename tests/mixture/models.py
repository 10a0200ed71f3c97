"""Small models with MoPPA attached."""

import timm
import torch

from moppa.mixture.insert import attach
from moppa.mixture.unit import Unit
from moppa.utils.config import instantiate
from tests.conftest import config_of

SETTINGS = instantiate(config_of("task=eurosat", "method=moppa"), "method.attach", _partial_=True).keywords
BEFORE_ATTENTION = {  # a unit per block, on which most tests of single parts are built
    **SETTINGS,
    "rank": 8,
    "priors": ["heat", "wave", "poisson"],
    "position": "attn_input",
    "start": {"diffusivity": 1.0, "speed": 1.0, "time": 1.0},
    "physics_rate": 1.0,
}


def vit(**settings):
    return timm.create_model("test_vit", img_size=64, num_classes=10, **settings).requires_grad_(False)


def attach_to(model, **settings):
    attach(model, **{**BEFORE_ATTENTION, **settings}, generator=torch.Generator().manual_seed(0))
    return model


def units_in(model):
    return [module for module in model.modules() if isinstance(module, Unit)]


def random_unit(**settings):
    """A unit with every parameter away from its initial value, in eval mode."""
    unit = units_in(attach_to(vit(), **settings))[0]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return unit.eval()
