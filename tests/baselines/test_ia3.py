"""(IA)^3 against HF peft."""

import pytest
import timm

from baselines import ia3
from moppa.utils.errors import UserError
from tests.baselines.low_rank import perturbed, vit
from tests.baselines.peft_oracle import PATHS, assert_equal_to_peft, injected


def test_ia3_is_that_of_peft():
    ours = vit()
    ia3.attach(ours)
    theirs, layers = injected(
        "IA3Config", ("k", "v", "fc2"), feedforward_modules=[f"blocks.{depth}.{PATHS['fc2']}" for depth in range(2)]
    )
    pairs = []
    for (depth, target), layer in layers.items():
        block = ours.blocks[depth]
        [scaled] = (block.mlp.fc2 if target == "fc2" else block.attn.qkv).parametrizations.weight
        our = scaled.scale if target == "fc2" else scaled.scales["kv".index(target)]
        pairs.append((our, layer.ia3_l["default"]))
    assert_equal_to_peft(perturbed(ours), theirs, pairs)


def test_the_queries_stay_bit_for_bit():
    stock, model = vit(), vit()
    ia3.attach(model)
    perturbed(model)
    for before, after in zip(stock.blocks, model.blocks, strict=True):
        for tensor in ("weight", "bias"):
            pairs = zip(
                getattr(before.attn.qkv, tensor).chunk(3), getattr(after.attn.qkv, tensor).chunk(3), strict=True
            )
            assert [old.equal(new) for old, new in pairs] == [True, False, False]


def test_a_layer_without_a_bias_gets_none_and_biases_outside_of_it_are_an_error():
    model = timm.create_model("test_vit", qkv_bias=False)
    ia3.attach(model)
    assert model.blocks[0].attn.qkv.bias is None
    with pytest.raises(UserError, match=r"^\(IA\)\^3 adds to the output of the layer qkv, and .*beit"):
        ia3.attach(timm.create_model("beit_base_patch16_224", depth=1, embed_dim=64, num_heads=2))
