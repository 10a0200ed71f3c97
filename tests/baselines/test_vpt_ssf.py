"""Full, BitFit, LN-Tune, VPT, SSF and FacT against their papers' equations, written out plainly."""

import copy
import math

import pytest
import timm
import torch
from torch.func import functional_call
from torch.nn.utils import parametrize

from baselines import bitfit, fact, full, lntune, ssf, vpt
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.errors import UserError
from moppa.utils.seeds import generator_for, seeded
from tests.test_laws import facts_of

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
PREFIXES = {
    "class token": {},
    "no prefix": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 4},
}
PROMPTS = {"num_prompts": 5, "deep": True, "dropout": 0.0}
FACTORS = {"decomposition": "tucker", "rank": 4, "scale": 0.5}

every_family = pytest.mark.parametrize("family", FAMILIES)


def stock(settings, **more):
    """A frozen model with a trainable head, none of whose norms and biases is at its plain start."""
    with seeded(1):
        model = timm.create_model(**{"num_classes": 10, **settings, **more}).requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    head = model.get_classifier()
    head.requires_grad_(True)
    torch.nn.init.normal_(head.weight, std=0.1, generator=generator_for(0, "head"))
    return model.eval()


def moved(model):
    """In double precision, with everything that is trained away from where it starts."""
    generator = generator_for(2, "move")
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double()


def images():
    return torch.randn(3, 3, 64, 64, generator=generator_for(3, "images")).double()


def leaf(parameter):
    return parameter.detach().clone().requires_grad_()


def assert_same(logits, parameters, expected, leaves):
    """Equal logits, and equal gradients of a functional of them that weighs every logit differently."""
    assert all(float(one.detach().abs().max()) > 0.1 for one in leaves)
    weights = torch.randn(logits.shape, generator=generator_for(4, "weights")).double()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    actual_gradients = torch.autograd.grad((logits * weights).sum(), parameters)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), leaves)
    for actual, reference in zip(actual_gradients, expected_gradients, strict=True):
        assert float(reference.abs().max()) > 1e-6
        torch.testing.assert_close(actual, reference, rtol=1e-8, atol=1e-10)


def test_the_sizes_are_the_papers_formulas():
    depth, dim, hidden, patch = 12, 768, 3072, 16 * 16 * 3
    biases = 3 * dim + dim + hidden + dim
    expected = {
        "bitfit": depth * (biases + 2 * dim) + 2 * dim,
        "lntune": depth * 4 * dim + 2 * dim,
        "vpt_shallow": dim * 100,
        "vpt_deep": depth * dim * 10,
        "ssf": 2 * (depth * (biases + 2 * dim) + 2 * dim),
        "fact_tt": 2 * dim * 16 + 12 * depth * 16**2,
        "fact_tk": 2 * dim * 32 + 12 * depth * 32 + 32**3,
        "full": depth * (12 * dim**2 + biases + 4 * dim) + patch * dim + dim + 197 * dim + dim + 2 * dim,
    }
    assert {method: facts_of(method)[0] for method in expected} == expected


def is_norm(name, family):
    parts = name.split(".")
    if family == "ConvNeXt" and (parts[:2] == ["stem", "1"] or parts[-3:-1] == ["downsample", "0"]):
        return True
    return parts[-2].startswith("norm") or parts[-2] == "fc_norm"


@every_family
def test_what_is_unfrozen_is_what_the_method_names(family):
    model = stock(FAMILIES[family])
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    rows = {name: id(parameter) in head for name, parameter in model.named_parameters()}
    wanted = {
        full: set(rows),
        bitfit: {name for name, is_head in rows.items() if is_head or name.split(".")[-1] == "bias"},
        lntune: {name for name, is_head in rows.items() if is_head or ("." in name and is_norm(name, family))},
    }
    for method, names in wanted.items():
        model = stock(FAMILIES[family])
        method.attach(model, generator=None)
        assert set(trainable_parameters(model)) == names
    assert len(rows) > len(wanted[bitfit]) > len(wanted[lntune]) > 2


@pytest.mark.parametrize("method", [bitfit, lntune])
def test_a_frozen_head_weight_stays_so(method):
    model = stock(VIT)
    model.head.weight.requires_grad_(False)
    method.attach(model, generator=None)
    assert not model.head.weight.requires_grad


def prompts_of(model):
    return [parameter for name, parameter in trainable_parameters(model).items() if name.endswith("prompts")]


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_vpt_is_the_concatenation_of_the_paper(prefix, deep):
    plain = stock(VIT, **PREFIXES[prefix])
    model = copy.deepcopy(plain)
    vpt.attach(model, num_prompts=5, deep=deep, dropout=0.0, generator=generator_for(0, "method"))
    moved(model)
    plain.double().head.load_state_dict(model.head.state_dict())
    prompts = [leaf(parameter) for parameter in prompts_of(model)]
    assert [tuple(one.shape) for one in prompts] == [(5, DIM)] * (DEPTH if deep else 1)

    num_prefix_tokens = plain.num_prefix_tokens
    x = plain.norm_pre(plain._pos_embed(plain.patch_embed(images())))
    for depth, block in enumerate(plain.blocks):
        if deep or depth == 0:
            ours = torch.stack([prompts[depth]] * len(x))
            x = torch.cat([x[:, :num_prefix_tokens], ours, x[:, -NUM_PATCHES:]], dim=1)
        x = block(x)
        assert x.shape[1] == num_prefix_tokens + 5 + NUM_PATCHES
    x = plain.norm(torch.cat([x[:, :num_prefix_tokens], x[:, -NUM_PATCHES:]], dim=1))
    assert_same(model(images()), prompts_of(model), plain.forward_head(x), prompts)


def test_vpt_prompts_that_no_token_attends_to_leave_the_block_as_it_was():
    plain = stock(VIT)
    model = copy.deepcopy(plain)
    vpt.attach(model, **PROMPTS, generator=None)
    x = torch.randn(2, 1 + NUM_PATCHES, DIM, generator=generator_for(5, "x"))
    mask = torch.zeros(1 + 5 + NUM_PATCHES, 1 + 5 + NUM_PATCHES)
    mask[:, 1:6] = -math.inf
    torch.testing.assert_close(model.blocks[0](x, attn_mask=mask), plain.blocks[0](x))
    assert not torch.allclose(model.blocks[0](x), plain.blocks[0](x), atol=1e-3)


def test_vpt_in_a_single_block_is_the_same_shallow_and_deep():
    logits = []
    for deep in (False, True):
        model = stock(VIT, depth=1)
        vpt.attach(model, num_prompts=5, deep=deep, dropout=0.0, generator=generator_for(0, "method"))
        logits.append(model(images().float()))
    assert torch.equal(*logits)


def test_vpt_starts_uniformly_within_the_bound_of_the_authors_code():
    model = stock(VIT)
    vpt.attach(model, num_prompts=100, deep=True, dropout=0.0, generator=generator_for(0, "method"))
    bound = math.sqrt(6 / (3 * 16 * 16 + DIM))
    for prompts in map(torch.Tensor.detach, prompts_of(model)):
        assert 0.99 * bound < float(prompts.abs().max()) <= bound
        assert float(prompts.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_vpt_drops_prompts_of_its_own_for_each_image_and_only_in_training():
    model = stock(VIT)
    vpt.attach(model, num_prompts=50, deep=True, dropout=0.25, generator=generator_for(0, "method"))
    entered = []
    model.blocks[0].block.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0][:, 1:51]))
    with seeded(0):
        model.train()(images().float())
    model.eval()(images().float())
    dropped, whole = entered
    prompts = prompts_of(model)[0].expand(3, -1, -1)
    assert torch.equal(whole, prompts)
    is_kept = dropped != 0
    torch.testing.assert_close(dropped, torch.where(is_kept, prompts / 0.75, 0))
    assert float(is_kept.float().mean()) == pytest.approx(0.75, abs=0.02)
    assert not torch.equal(is_kept[0], is_kept[1])


BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
OPERATIONS = {
    "ViT": ["patch_embed.proj", *(f"blocks.{depth}.{name}" for depth in range(DEPTH) for name in BLOCK), "norm"],
    "Swin": [
        "patch_embed.proj",
        "patch_embed.norm",
        *(f"layers.0.blocks.0.{name}" for name in BLOCK),
        "layers.1.downsample.norm",
        *(f"layers.1.blocks.{depth}.{name}" for depth in range(2) for name in BLOCK),
        "norm",
    ],
    "ConvNeXt": [
        "stem.0",
        "stem.1",
        *(
            f"stages.{stage}.blocks.{depth}.{name}"
            for stage, num_blocks in enumerate((1, 2, 4, 2))
            for depth in range(num_blocks)
            for name in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2")
        ),
        *(f"stages.{stage}.downsample.{place}" for stage in range(1, 4) for place in range(2)),
        "head.norm",
    ],
}


def shifted(family):
    model = stock(FAMILIES[family])
    ssf.attach(model, generator=None)
    return moved(model)


def test_ssf_scales_and_shifts_every_operation_of_the_papers_code():
    for family, names in OPERATIONS.items():
        layers = dict(shifted(family).named_modules())
        found = {name for name, layer in layers.items() if parametrize.is_parametrized(layer)}
        assert found == set(names)


@every_family
def test_ssf_is_a_scale_and_a_shift_of_the_activations(family):
    model, plain = shifted(family), stock(FAMILIES[family]).double()
    plain.get_classifier().load_state_dict(model.get_classifier().state_dict())
    parameters, leaves = [], []
    for name in OPERATIONS[family]:
        layer = model.get_submodule(name)
        pair = layer.parametrizations.weight[0].scale, layer.parametrizations.bias[0].shift
        scale, shift = leaf(pair[0]), leaf(pair[1])
        parameters += pair
        leaves += scale, shift

        def after(module, inputs, output, scale=scale, shift=shift):
            is_channels_first = isinstance(module, torch.nn.Conv2d) or type(module).__name__ == "LayerNorm2d"
            letters = "bchw,c->bchw" if is_channels_first else "...c,c->...c"
            ones = torch.ones_like(output)
            return torch.einsum(letters, output, scale) + torch.einsum(letters, ones, shift)

        plain.get_submodule(name).register_forward_hook(after)
    assert_same(model(images()), parameters, plain(images()), leaves)


@every_family
def test_ssf_has_one_scale_for_weight_and_bias_that_copies_keep(family):
    model = shifted(family)
    for one in (model, copy.deepcopy(model)):
        layers = [one.get_submodule(name) for name in OPERATIONS[family]]
        assert all(x.parametrizations.weight[0].scale is x.parametrizations.bias[0].scale for x in layers)
        head = sum(parameter.numel() for parameter in one.get_classifier().parameters())
        widths = sum(len(layer.bias) for layer in layers)
        assert sum(parameter.numel() for parameter in trainable_parameters(one).values()) == 2 * widths + head


def factors_of(model):
    return {name.rpartition(".")[2]: one for name, one in trainable_parameters(model).items() if ".shared." in name}


@pytest.mark.parametrize("decomposition", ["tensor_train", "tucker"])
def test_fact_is_the_dense_update_of_the_papers_tensor(decomposition):
    plain = stock(VIT)
    model = copy.deepcopy(plain)
    fact.attach(model, decomposition=decomposition, rank=4, scale=0.5, generator=generator_for(0, "method"))
    moved(model)
    plain.double().head.load_state_dict(model.head.state_dict())
    parameters = factors_of(model)
    leaves = {name: leaf(parameter) for name, parameter in parameters.items()}
    is_mixed = decomposition == "tucker"
    sigma = torch.einsum("abc,ia->ibc", leaves["core"], leaves["mix"]) if is_mixed else leaves["core"]
    ratio = plain.blocks[0].mlp.fc1.out_features // DIM
    assert len(sigma) == DEPTH * (4 + 2 * ratio)
    updates = iter(0.5 * torch.einsum("ja,iab,kb->ijk", leaves["input"], sigma, leaves["output"]))  # in x out

    weights = {}
    for depth in range(DEPTH):
        query, key, value, proj = (next(updates) for _ in range(4))
        wide = torch.cat([next(updates) for _ in range(ratio)], dim=1)
        tall = torch.cat([next(updates) for _ in range(ratio)], dim=0)
        for name, update in {
            "attn.qkv": torch.cat([query, key, value], dim=1),
            "attn.proj": proj,
            "mlp.fc1": wide,
            "mlp.fc2": tall,
        }.items():
            path = f"blocks.{depth}.{name}.weight"
            weights[path] = plain.get_parameter(path) + update.T
    expected = functional_call(plain, weights, (images(),))
    assert_same(model(images()), list(parameters.values()), expected, list(leaves.values()))


@pytest.mark.parametrize("decomposition", ["tensor_train", "tucker"])
def test_fact_has_one_set_of_factors_that_copies_keep(decomposition):
    model = stock(VIT)
    fact.attach(model, decomposition=decomposition, rank=4, scale=1.0, generator=None)
    for one in (model, copy.deepcopy(model)):
        assert sum(isinstance(module, fact.Factors) for module in one.modules()) == 1
        assert len(factors_of(one)) == len([name for name in trainable_parameters(one) if not name.startswith("head.")])


def test_fact_merged_is_a_stock_model():
    model = stock(VIT)
    fact.attach(model, **FACTORS, generator=generator_for(0, "method"))
    expected = moved(model)(images())
    plain = stock(VIT).double()
    plain.load_state_dict(merge(model).state_dict(), strict=True)
    torch.testing.assert_close(plain(images()), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        (vpt, "num_prompts", 0),
        (vpt, "num_prompts", True),
        (vpt, "dropout", -0.1),
        (vpt, "dropout", 1.0),
        (vpt, "dropout", math.nan),
        (fact, "decomposition", "cp"),
        (fact, "rank", 0),
        (fact, "rank", DIM + 1),
        (fact, "scale", 0.0),
        (fact, "scale", math.inf),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_value_out_of_range_is_named_and_nothing_is_attached(method, name, value):
    model = stock(VIT)
    before = list(model.state_dict())
    with pytest.raises(UserError, match=rf"method\.attach\.{name}={value!r}"):
        method.attach(model, **{**(PROMPTS if method is vpt else FACTORS), name: value}, generator=None)
    assert list(model.state_dict()) == before


def test_a_model_that_a_method_cannot_take_is_named():
    with pytest.raises(UserError, match=r"LayerNorms.*ResNet has none"):
        lntune.attach(timm.create_model("test_resnet"), generator=None)
    with pytest.raises(UserError, match="ResNet"):
        ssf.attach(timm.create_model("test_resnet"), generator=None)
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.qkv of VisionTransformer has none"):
        ssf.attach(stock(VIT, qkv_bias=False), generator=None)
    with pytest.raises(UserError, match=r"64 x 64 slices.*VisionTransformer"):
        fact.attach(stock(VIT, mlp_ratio=2.5), **FACTORS, generator=None)
    rotary = timm.create_model("eva02_tiny_patch14_224", depth=1, img_size=28, num_classes=10)
    with pytest.raises(UserError, match="Eva"):
        vpt.attach(rotary, **PROMPTS, generator=None)
