"""LST against its equations, and what autograd keeps of the backbone: the output of each block and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import einsum

from baselines import lst
from moppa.peft.collect import trainable_parameters
from tests.baselines.equations import assert_equal_to, assert_setting_is_named, attached, gelu, images, seeded, vit
from tests.models import batch, model_with

pytestmark = pytest.mark.usefixtures("unchecked")
SETTINGS = {"reduction": 4, "temperature": 0.1}


def layer_norm(p, path, x):
    centered = x - x.mean(dim=-1, keepdim=True)
    variance = (centered**2).mean(dim=-1, keepdim=True)
    return centered / (variance + 1e-6).sqrt() * p[f"{path}.weight"] + p[f"{path}.bias"]


def linear(p, path, x):
    return einsum("bni,oi->bno", x, p[f"{path}.weight"]) + p[f"{path}.bias"]


def side_block(p, path, s, num_heads, mask):
    q, k, v = linear(p, f"{path}.attn.qkv", layer_norm(p, f"{path}.norm1", s)).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask).softmax(dim=-1)
    s = s + linear(p, f"{path}.attn.proj", (weights @ v).transpose(1, 2).flatten(2))
    return s + linear(p, f"{path}.mlp.fc2", gelu(linear(p, f"{path}.mlp.fc1", layer_norm(p, f"{path}.norm2", s))))


def equation(stock, mask=None):
    """Returns a function of the trainable tensors; the gates and the ladder are those of the authors' code."""

    def logits(p):
        h = stock.norm_pre(stock._pos_embed(stock.patch_embed(images())))
        s = linear(p, "blocks.0.down", h)
        for depth, block in enumerate(stock.blocks):
            path = "blocks.0.inner" if depth == 0 else f"blocks.{depth}"
            h = block(h, attn_mask=mask)
            mu = 1 / (1 + torch.exp(-p[f"{path}.alpha"] / 0.1))
            s = mu * s + (1 - mu) * linear(p, f"{path}.down", h)
            s = side_block(p, f"{path}.side", s, block.attn.num_heads, 0.0 if mask is None else mask)
        return stock.forward_head(stock.norm(h) + linear(p, "norm.up", layer_norm(p, "norm.norm", s)))

    return logits


def test_lst_is_a_ladder_of_narrow_blocks_with_gates():
    assert_equal_to(attached(lst.attach, SETTINGS), equation(vit()))


def test_a_mask_hides_tokens_from_both_networks():
    model = attached(lst.attach, SETTINGS)
    mask = torch.zeros(15, 15, dtype=torch.float64).masked_fill_(torch.ones(15, 15).triu(1).bool(), -torch.inf)
    expected = equation(vit(), mask)(trainable_parameters(model))
    logits = model.forward_head(model.forward_features(images(), attn_mask=mask))
    torch.testing.assert_close(logits, expected, atol=1e-10, rtol=0)


def kept_for_backward(model):
    """Returns the tensors that autograd keeps in a training step."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(model.train()(batch()[0]), batch()[1])
    loss.backward()
    return list(kept.values())


def activations(model, kept):
    """Returns those of the kept tensors that are no parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return [tensor for tensor in kept if tensor.untyped_storage().data_ptr() not in parameters]


def activation_bytes(model, kept):
    return sum(tensor.untyped_storage().nbytes() for tensor in activations(model, kept))


def test_nothing_passes_back_through_the_backbone_and_a_step_keeps_little():
    model, adapter = model_with("lst"), model_with("adapter")
    kept = {}
    for name, adapted in (("lst", model), ("adapter", adapter)):
        kept[name] = kept_for_backward(adapted)
        frozen = {parameter.data_ptr() for parameter in adapted.parameters() if not parameter.requires_grad}
        passes_back = any(tensor.data_ptr() in frozen for tensor in kept[name])
        assert passes_back == (name == "adapter")
    wide = [tensor for tensor in activations(model, kept["lst"]) if tensor.shape[-1:] == (64,)]
    assert len(wide) == 1 + 3 + 1, "what enters the first block, what each block returns, and what the head reads"
    assert activation_bytes(model, kept["lst"]) < 0.6 * activation_bytes(adapter, kept["adapter"])


def test_the_side_network_starts_with_equal_gates_and_no_output():
    model = vit()
    lst.attach(model, **SETTINGS, generator=seeded())
    parameters = trainable_parameters(model)
    assert not any(parameters[name].any() for name in ("norm.up.weight", "norm.up.bias", "blocks.1.alpha"))
    assert parameters["blocks.1.side.attn.qkv.weight"].std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"reduction": 5}, r"^reduction=5 does not divide"), ({"temperature": 0}, r"^temperature=0: .*above 0")],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(lst.attach, {**SETTINGS, **setting}, message)
