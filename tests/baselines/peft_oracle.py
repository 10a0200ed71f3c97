"""Small models as HF peft adapts them, and the comparison of a method with peft in double precision."""

import copy

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from tests.baselines.low_rank import SplitQKV, backward, vit

PATHS = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"} | {name: f"attn.qkv.{name}" for name in "qkv"}


def injected(config_name, targets, **settings):
    """Returns a model that peft adapts, with q, k and v in layers of their own, and its layers by block and target."""
    model = vit()
    for block in model.blocks:
        block.attn.qkv = SplitQKV(block.attn.qkv)
    names = {(depth, target): f"blocks.{depth}.{PATHS[target]}" for depth in range(2) for target in targets}
    config = getattr(peft, config_name)(target_modules=list(names.values()), **settings)
    model = peft.get_peft_model(model, config).base_model.model.eval()
    model.get_classifier().requires_grad_(True)
    return model, {key: model.get_submodule(name) for key, name in names.items()}


def assert_equal_to_peft(ours, theirs, pairs, *, tolerance=1e-10):
    """Asserts equal logits and gradients in double precision, and equal logits after both have merged.

    `pairs` are our trained tensors and peft's, which get our values; they must be all of ours but the head.
    """
    ours.double(), theirs.double()
    theirs.head.load_state_dict(ours.head.state_dict())
    with torch.no_grad():
        for our, their in pairs:
            their.copy_(our.view_as(their))
    logits = backward(ours)
    torch.testing.assert_close(backward(theirs), logits, atol=tolerance, rtol=tolerance)
    for our, their in pairs:
        assert their.grad.abs().max() > 1e-5
        torch.testing.assert_close(our.grad.view_as(their), their.grad, atol=tolerance, rtol=100 * tolerance)
    trained = {id(tensor) for name, tensor in trainable_parameters(ours).items() if not name.startswith("head")}
    assert {id(our) for our, _ in pairs} == trained
    for layer in theirs.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    for merged in (theirs, merge(copy.deepcopy(ours))):
        torch.testing.assert_close(backward(merged), logits, atol=10 * tolerance, rtol=10 * tolerance)
