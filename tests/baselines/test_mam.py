"""MAM against its equations: attention over more keys and values, and a scaled adapter beside the MLP."""

import pytest
import torch
from torch import einsum

from baselines import mam
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import SettingError, UserError
from tests.baselines.equations import BOTTLENECK, assert_equal_to, attached, forward, images, seeded, vit

SETTINGS = {"num_prefixes": 3, "bottleneck": BOTTLENECK, "scale": 4.0, "dropout": 0.0}


def equation(stock, mask=0.0):
    """Returns a function of the trainable tensors; the prefixes come first, as in the paper, and no mask hides them."""

    def logits(p):
        def attention(depth, block, z):
            attn, prefix = block.attn, p[f"blocks.{depth}.attn.inner.qkv.prefix"]
            q, k, v = attn.qkv(z).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            more_k, more_v = (
                half.unflatten(1, (attn.num_heads, -1)).transpose(0, 1) for half in prefix.chunk(2, dim=1)
            )
            batch = z.shape[0]
            k, v = (torch.cat([more.expand(batch, -1, -1, -1), own], dim=2) for more, own in ((more_k, k), (more_v, v)))
            scores = einsum("bhqc,bhkc->bhqk", q, k) * q.shape[-1] ** -0.5
            scores = torch.cat([scores[..., :3], scores[..., 3:] + mask], dim=-1)
            return attn.proj(einsum("bhqk,bhkc->bqhc", scores.softmax(dim=-1), v).flatten(2))

        def mlp(depth, block, z):
            path = f"blocks.{depth}.mlp.adapter."
            hidden = (einsum("bnc,hc->bnh", z, p[path + "down"]) + p[path + "down_bias"]).clamp(min=0)
            return block.mlp(z) + 4 * (einsum("bnh,ch->bnc", hidden, p[path + "up"]) + p[path + "up_bias"])

        return forward(stock, attention, mlp)

    return logits


def test_mam_is_more_keys_and_values_and_a_scaled_adapter():
    assert_equal_to(attached(mam.attach, SETTINGS), equation(vit()))


@pytest.mark.parametrize("is_boolean", [True, False])
def test_a_mask_hides_tokens_and_no_prefix(is_boolean):
    model, hidden = attached(mam.attach, SETTINGS), torch.ones(15, 15).triu(1).bool()
    added = torch.zeros(15, 15, dtype=torch.float64).masked_fill_(hidden, -torch.inf)
    expected = equation(vit(), added)(trainable_parameters(model))
    logits = model.forward_head(model.forward_features(images(), attn_mask=~hidden if is_boolean else added))
    torch.testing.assert_close(logits, expected, atol=1e-10, rtol=0)


def test_a_bad_setting_and_a_model_with_relative_positions_are_named():
    with pytest.raises(SettingError, match=r"^num_prefixes=0"):
        mam.attach(vit(), **{**SETTINGS, "num_prefixes": 0}, generator=seeded())
    with pytest.raises(SettingError, match=r"^scale=-1"):
        mam.attach(vit(), **{**SETTINGS, "scale": -1.0}, generator=seeded())
    model = vit()
    model.rope = torch.nn.Identity()
    with pytest.raises(UserError, match=r"MAM adds prefixes to .*VisionTransformer"):
        mam.attach(model, **SETTINGS, generator=seeded())
