"""Small models of every backbone family, and comparisons of logits and gradients in double precision."""

import timm
import torch

from moppa.peft.collect import trainable_parameters
from moppa.utils.seeds import generator_for, seeded

DEPTH, NUM_PATCHES, DIM = 2, 16, 64
VIT = {"model_name": "test_vit", "depth": DEPTH, "img_size": 64}
SWIN = {
    "model_name": "swin_tiny_patch4_window7_224",
    "img_size": 64,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (1, 2),
    "num_heads": (2, 4),
}
CONVNEXT = {"model_name": "test_convnext", "pretrained_cfg_overlay": {"input_size": (3, 64, 64)}}
FAMILIES = {"ViT": VIT, "Swin": SWIN, "ConvNeXt": CONVNEXT}


def stock_model(settings, **more):
    """Returns a frozen model with a trainable head; no norm or bias is at its initial value."""
    with seeded(1):
        model = timm.create_model(**{"num_classes": 10, **settings, **more}).requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    head = model.get_classifier()
    head.requires_grad_(True)
    torch.nn.init.normal_(head.weight, std=0.1, generator=generator_for(0, "head"))
    return model.eval()


def perturbed(model):
    """Moves every trainable tensor away from its initial value and returns the model in double precision."""
    generator = generator_for(2, "move")
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double()


def images():
    return torch.randn(3, 3, 64, 64, generator=generator_for(3, "images")).double()


def leaf(parameter):
    return parameter.detach().clone().requires_grad_()


def assert_equal_to(expected, leaves, logits, parameters):
    """Asserts equal logits, and equal gradients of a sum that weighs every logit differently."""
    assert all(float(one.detach().abs().max()) > 0.1 for one in leaves)
    weights = torch.randn(logits.shape, generator=generator_for(4, "weights")).double()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    gradients = torch.autograd.grad((logits * weights).sum(), parameters)
    references = torch.autograd.grad((expected * weights).sum(), leaves)
    for gradient, reference in zip(gradients, references, strict=True):
        assert float(reference.abs().max()) > 1e-6
        torch.testing.assert_close(gradient, reference, rtol=1e-8, atol=1e-10)
