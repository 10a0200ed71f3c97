"""PiSSA and OLoRA against HF peft, LoRA-XS against its equation."""

import numpy as np
import pytest
import torch

from baselines import lora_xs, olora, pissa
from moppa.utils.errors import SettingError
from tests.baselines.low_rank import TARGETS, backward, delta_at, perturbed, vit
from tests.baselines.peft_oracle import assert_equal_to_peft, injected

SETTINGS = {"rank": 3, "alpha": 6, "targets": TARGETS}


def attached(method, model=None, **settings):
    model = model or vit()
    method.attach(model, **{**SETTINGS, **settings})
    return model


@pytest.mark.parametrize("method", [pissa, olora], ids=["pissa", "olora"])
def test_a_start_from_the_weight_is_that_of_peft(method):
    name = method.__name__.split(".")[-1]
    ours = attached(method)
    theirs, layers = injected("LoraConfig", TARGETS, r=3, lora_alpha=6, lora_dropout=0.0, init_lora_weights=name)
    pairs = []
    for key, layer in layers.items():
        delta, index = delta_at(ours, *key)
        a, b = (factor["default"].weight for factor in (layer.lora_A, layer.lora_B))
        signs = (delta.up[index] * b).sum(dim=0).sign().detach()  # of singular vectors, which no decomposition fixes
        with torch.no_grad():
            a.mul_(signs[:, None]), b.mul_(signs)
        torch.testing.assert_close(delta.down[index], a, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(delta.up[index], b, atol=1e-4, rtol=1e-3)
        pairs += [(delta.down[index], a), (delta.up[index], b)]
    assert_equal_to_peft(perturbed(ours), theirs, pairs, tolerance=1e-5)  # peft reduces W in float32


@pytest.mark.parametrize("method", [pissa, olora], ids=["pissa", "olora"])
def test_the_start_is_the_pretrained_weight_bit_for_bit_in_every_precision(method):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        stock = vit().to(dtype)
        model = attached(method, vit().to(dtype)).to(dtype)
        for before, after in zip(stock.blocks, model.blocks, strict=True):
            assert torch.equal(before.attn.qkv.weight, after.attn.qkv.weight)
            assert torch.equal(before.mlp.fc2.weight, after.mlp.fc2.weight)


def test_what_decomposes_the_weight_is_never_saved():
    for method in (pissa, olora, lora_xs):
        assert not [name for name in attached(method).state_dict() if "first" in name or name.endswith("0.down")]


def test_lora_xs_trains_a_matrix_between_the_singular_vectors_of_the_weight():
    model, reference = perturbed(attached(lora_xs, vit().double()).double()), vit().double()
    reference.head.load_state_dict(model.head.state_dict())
    latents = []
    for depth, block in enumerate(reference.blocks):
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            names = {block.attn.qkv: "q", block.attn.proj: "proj", block.mlp.fc1: "fc1", block.mlp.fc2: "fc2"}
            delta, _ = delta_at(model, depth, names[layer])
            updates = []
            for matrix, up, our in zip(layer.weight.chunk(len(delta.latent)), delta.up, delta.latent, strict=True):
                u, s, v = (torch.from_numpy(x) for x in np.linalg.svd(matrix.numpy(), full_matrices=False))
                signs = (u[:, :3] * up).sum(dim=0).sign()  # of singular vectors, which no decomposition fixes
                latent = our.detach().clone().requires_grad_()
                latents.append((our, latent))
                rotated = torch.einsum("i,j,ij->ij", signs, signs, latent)
                updates.append(6 / 3 * torch.einsum("oi,ij,j,jd->od", u[:, :3], rotated, s[:3], v[:3]))
            frozen = layer.weight
            del layer.weight
            layer.weight = frozen + torch.cat(updates)
    torch.testing.assert_close(backward(model), backward(reference), atol=1e-10, rtol=1e-10)
    for our, expected in latents:
        assert expected.grad.abs().max() > 1e-5
        torch.testing.assert_close(our.grad, expected.grad, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("method", [pissa, olora, lora_xs], ids=["pissa", "olora", "lora_xs"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [({"rank": 65}, r"^rank=65 .*64"), ({"rank": 0}, r"^rank=0: .*at least 1"), ({"alpha": 0}, r"^alpha=0: .*above 0")],
)
def test_a_bad_setting_is_named(method, setting, message):
    with pytest.raises(SettingError, match=message):
        attached(method, **setting)
