"""The bottleneck methods against their papers' equations, written out by hand, in double precision."""

import copy
import math

import pytest
import timm
import torch
from torch import einsum

from baselines import adapter, binary, convpass, repadapter
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.errors import UserError
from tests.test_laws import batch, fresh

BOTTLENECK = 6
PLAIN = {
    "bottleneck": BOTTLENECK,
    "placements": ["beside_mlp"],
    "activation": "relu",
    "scale": 0.1,
    "init": "kaiming_uniform",
    "dropout": 0.0,
    "drop_path": 0.0,
}
BYPASS = {"bottleneck": BOTTLENECK, "scale": 0.5, "conv_init": "identity", "dropout": 0.0}
REP = {"bottleneck": BOTTLENECK, "groups": 2, "scale": 0.5}
BINARY = {"bottleneck": BOTTLENECK, "scale": 0.5, "dropout": 0.0}
BINARY_LORA = {"rank": BOTTLENECK, "scale": 0.5, "targets": ["q", "v"]}
ATTACH = [
    (adapter.attach, PLAIN),
    (convpass.attach, BYPASS),
    (repadapter.attach, REP),
    (binary.attach_adaptformer, BINARY),
    (binary.attach_lora, BINARY_LORA),
]


@pytest.fixture(autouse=True)
def _untouched_generator():
    with torch.random.fork_rng():
        yield


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def vit(**settings):
    """A tiny frozen model with two registers and LayerScale; every norm, bias and gain is away from its start."""
    torch.manual_seed(0)
    settings = {"depth": 2, "img_size": (64, 48), "num_classes": 5, "reg_tokens": 2, "init_values": 0.7, **settings}
    model = timm.create_model("test_vit", **settings).double().requires_grad_(False).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images():
    return torch.randn(2, 3, 64, 48, generator=seeded(5), dtype=torch.float64)


def moved(model):
    """Every trainable parameter away from its start."""
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(7), dtype=parameter.dtype))
    return model


def through(stock, attention, mlp, after=lambda depth, x: x):
    """The logits of a vision transformer whose blocks compute attention, MLP and what follows as they are told."""
    x = stock.norm_pre(stock._pos_embed(stock.patch_embed(images())))
    for depth, block in enumerate(stock.blocks):
        x = x + block.ls1(attention(depth, block, block.norm1(x)))
        x = x + block.ls2(mlp(depth, block, block.norm2(x)))
        x = after(depth, x)
    return stock.forward_head(stock.norm(x))


def check_against(model, by_hand):
    """Logits and all gradients equal those of `by_hand`, a function of the trainable tensors by name."""
    parameters = trainable_parameters(model)
    copies = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
    actual, expected = model(images()), by_hand(copies)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)
    toward = torch.randn(actual.shape, generator=seeded(9), dtype=actual.dtype)
    actual_gradients = torch.autograd.grad((actual * toward).sum(), list(parameters.values()))
    expected_gradients = torch.autograd.grad((expected * toward).sum(), list(copies.values()))
    for name, got, wanted in zip(parameters, actual_gradients, expected_gradients, strict=True):
        assert wanted.abs().max() > 0, name
        torch.testing.assert_close(got, wanted, atol=1e-10, rtol=1e-8, msg=lambda text, name=name: f"{name}: {text}")


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


@pytest.mark.parametrize("scale", [0.1, "channel"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(
    "placements",
    [["beside_mlp"], ["after_mlp"], ["after_attn", "after_mlp"], ["after_block"], ["beside_attn", "after_block"]],
    ids="+".join,
)
def test_adapters_compute_their_equations(placements, activation, scale):
    stock, model = vit(), vit()
    adapter.attach(
        model,
        **{**PLAIN, "placements": placements, "activation": activation, "scale": scale},
        generator=seeded(),
    )
    moved(model.double())
    inner = "held." if "after_block" in placements else ""

    def by_hand(p):
        def adapt(at, x):
            hidden = einsum("...c,hc->...h", x, p[at + ".adapter.down"]) + p[at + ".adapter.down_bias"]
            hidden = hidden.clamp(min=0) if activation == "relu" else gelu(hidden)
            out = einsum("...h,ch->...c", hidden, p[at + ".adapter.up"]) + p[at + ".adapter.up_bias"]
            return out * (p[at + ".adapter.scale"] if scale == "channel" else 0.1)

        def sublayer(name):
            def run(depth, block, z):
                at, y = f"blocks.{depth}.{inner}{name}", getattr(block, name)(z)
                if f"beside_{name}" in placements:
                    y = y + adapt(at, z)
                return y + adapt(at, y) if f"after_{name}" in placements else y

            return run

        def after(depth, x):
            return x + adapt(f"blocks.{depth}", x) if "after_block" in placements else x

        return through(stock, sublayer("attn"), sublayer("mlp"), after)

    check_against(model, by_hand)


def test_an_adapter_beside_and_one_after_stand_in_that_order_however_they_are_named():
    names = []
    for placements in (["beside_mlp", "after_mlp"], ["after_mlp", "beside_mlp"]):
        model = vit()
        adapter.attach(model, **{**PLAIN, "placements": placements}, generator=seeded())
        names.append(list(trainable_parameters(model)))
        assert isinstance(model.blocks[0].mlp, adapter.After)
        assert isinstance(model.blocks[0].mlp.held, adapter.Beside)
    assert names[0] == names[1]


def test_convpass_computes_its_equation():
    stock, model = vit(), vit()
    convpass.attach(model, **BYPASS, generator=seeded())
    moved(model.double())

    def by_hand(p):
        def bypass(at, z):
            def named(name):
                return p[f"{at}.bypass.{name}"]

            hidden = einsum("bnc,hc->bnh", z, named("down")) + named("down_bias")
            hidden = hidden * torch.sigmoid(1.702 * hidden)
            # each prefix token an image of one pixel, the patches one of 4 x 3, and a frame of zeros about each
            pictures = [hidden[:, None, i : i + 1] for i in range(3)] + [hidden[:, 3:].reshape(2, 4, 3, BOTTLENECK)]
            tokens = []
            for picture in pictures:
                rows, columns = picture.shape[1:3]
                framed = picture.new_zeros(2, rows + 2, columns + 2, BOTTLENECK)
                framed[:, 1:-1, 1:-1] = picture
                for i in range(rows):
                    for j in range(columns):
                        window = framed[:, i : i + 3, j : j + 3]
                        tokens.append(einsum("bijh,khij->bk", window, named("conv")) + named("conv_bias"))
            hidden = torch.stack(tokens, dim=1)
            hidden = hidden * torch.sigmoid(1.702 * hidden)
            return 0.5 * (einsum("bnh,ch->bnc", hidden, named("up")) + named("up_bias"))

        return through(
            stock,
            lambda depth, block, z: block.attn(z) + bypass(f"blocks.{depth}.attn", z),
            lambda depth, block, z: block.mlp(z) + bypass(f"blocks.{depth}.mlp", z),
        )

    check_against(model, by_hand)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_repadapter_is_a_linear_adapter_before_attention_and_before_the_mlp(groups):
    stock, model = vit(embed_dim=66, num_heads=3), vit(embed_dim=66, num_heads=3)
    repadapter.attach(model, **{**REP, "groups": groups}, generator=seeded())
    moved(model.double())

    def by_hand(p):
        def adapted(at, z):
            def named(name):
                return p[f"{at}.parametrizations.bias.0.adapter.{name}"]

            hidden = einsum("bnc,hc->bnh", z, named("down")) + named("down_bias")
            parts = [
                einsum("bnh,ch->bnc", part, up)
                for part, up in zip(hidden.chunk(groups, -1), named("up").chunk(groups), strict=True)
            ]
            return z + 0.5 * (torch.cat(parts, dim=-1) + named("up_bias"))

        return through(
            stock,
            lambda depth, block, z: block.attn(adapted(f"blocks.{depth}.attn.qkv", z)),
            lambda depth, block, z: block.mlp(adapted(f"blocks.{depth}.mlp.fc1", z)),
        )

    check_against(model, by_hand)


def test_repadapters_tensors_are_shared_once_kept_by_a_copy_and_merged_one_after_the_other():
    stock, model = vit(), vit()
    repadapter.attach(model, **REP, generator=seeded())
    twin = copy.deepcopy(moved(model.double()))
    assert len(trainable_parameters(model)) == 2 * 2 * 4
    expected = model(images())
    for vit_ in (twin, model):
        weight, bias = (vit_.blocks[0].mlp.fc1.parametrizations[name][0] for name in ("weight", "bias"))
        assert weight.adapter is bias.adapter
        assert bias.pretrained is vit_.blocks[0].mlp.fc1.parametrizations.weight.original
    assert twin.blocks[0].mlp.fc1.parametrizations.bias[0].pretrained is not bias.pretrained
    assert torch.equal(twin(images()), expected)
    stock.load_state_dict(merge(model).state_dict(), strict=True)
    torch.testing.assert_close(stock(images()), expected, atol=1e-12, rtol=0)


def two_levels(w):
    """The public code's layer, for one bit: standardized, sign times the median of |normal|, and back."""
    level = 0.6744897501960817
    mean = w.mean()
    deviation = torch.sqrt(((w - mean) ** 2).sum() / (w.numel() - 1))
    standard = (w - mean) / deviation
    rounded = level * (2 * (standard > 0).to(w.dtype) - 1)
    return ((rounded - standard).detach() + standard) * deviation + mean


def test_a_binary_matrix_has_two_levels_about_its_mean_and_the_papers_gradient():
    latent = torch.randn(5, 7, generator=seeded(), dtype=torch.float64).add_(0.3).requires_grad_()
    toward = torch.randn(5, 7, generator=seeded(1), dtype=torch.float64)
    matrix = binary.binarized(latent)
    low, high = matrix.min(), matrix.max()
    assert torch.all(torch.isclose(matrix, low) | torch.isclose(matrix, high))
    torch.testing.assert_close((low + high) / 2, latent.mean())
    torch.testing.assert_close(matrix, two_levels(latent))
    [got] = torch.autograd.grad((matrix * toward).sum(), latent)
    [wanted] = torch.autograd.grad((two_levels(latent) * toward).sum(), latent)
    torch.testing.assert_close(got, wanted)


def test_a_zero_latent_is_the_zero_matrix_and_learns_as_if_nothing_were_rounded():
    latent = torch.zeros(4, 3, requires_grad=True)
    toward = torch.randn(4, 3, generator=seeded())
    assert not binary.binarized(latent).any()
    (binary.binarized(latent) * toward).sum().backward()
    assert torch.equal(latent.grad, toward)
    tiny = 1e-9 * torch.randn(4, 3, generator=seeded())  # as after a first step of a warm-up
    assert len(binary.binarized(tiny).div(1e-9).round(decimals=3).unique()) == 2


def test_bi_adaptformer_computes_its_equation():
    stock, model = vit(), vit()
    binary.attach_adaptformer(model, **BINARY, generator=seeded())
    moved(model.double())

    def by_hand(p):
        def mlp(depth, block, z):
            at = f"blocks.{depth}.mlp."
            hidden = einsum("bnc,hc->bnh", z, two_levels(p[at + "down"])).clamp(min=0)
            return block.mlp(z) + 0.5 * einsum("bnh,ch->bnc", hidden, two_levels(p[at + "up"]))

        return through(stock, lambda depth, block, z: block.attn(z), mlp)

    check_against(model, by_hand)


def test_bi_lora_computes_its_equation():
    stock, model = vit(), vit()
    binary.attach_lora(model, **BINARY_LORA, generator=seeded())
    moved(model.double())

    def by_hand(p):
        def attention(depth, block, z):
            def update(index):
                down, up = (p[f"blocks.{depth}.attn.qkv.parametrizations.weight.0.{n}.{index}"] for n in ("down", "up"))
                return 0.5 * einsum("bnc,hc,dh->bnd", z, two_levels(down), two_levels(up))

            q, k, v = block.attn.qkv(z).chunk(3, dim=-1)
            heads = [part.unflatten(-1, (block.attn.num_heads, -1)) for part in (q + update(0), k, v + update(1))]
            weights = einsum("bnhd,bmhd->bhnm", heads[0], heads[1]) / math.sqrt(heads[0].shape[-1])
            return block.attn.proj(einsum("bhnm,bmhd->bnhd", weights.softmax(-1), heads[2]).flatten(2))

        return through(stock, attention, lambda depth, block, z: block.mlp(z))

    check_against(model, by_hand)


@pytest.mark.parametrize("method", ["adaptformer", "convpass", "bi_adaptformer"])
def test_dropout_and_drop_path_are_for_training_alone(method):
    model = moved(fresh(method))
    x = batch()[0]
    assert torch.equal(model.eval()(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_an_adapter_after_the_block_is_dropped_for_whole_images():
    model = moved(fresh("adapter_plus"))
    unit = model.blocks[0].adapter.train()
    changes = unit(torch.randn(200, 3, 64, generator=seeded()))
    dropped = changes.flatten(1).eq(0).all(dim=1)
    assert 5 < dropped.sum() < 40  # a tenth of 200, four deviations about it
    assert changes[~dropped].ne(0).all()


@pytest.mark.parametrize(("attach", "settings"), ATTACH)
def test_an_attention_mask_passes_through(attach, settings):
    stock, model = vit(), vit()
    if attach is adapter.attach:
        settings = {**settings, "placements": ["after_attn", "after_mlp", "after_block"]}
    attach(model, **settings, generator=seeded())
    model.double()
    mask = torch.zeros(15, 15, dtype=torch.float64).masked_fill_(torch.ones(15, 15).triu(1).bool(), -torch.inf)
    masked = model.forward_features(images(), attn_mask=mask)
    assert torch.equal(masked, stock.forward_features(images(), attn_mask=mask))
    assert not torch.equal(masked, stock.forward_features(images()))


def test_the_ways_to_start():
    wide = {"embed_dim": 768, "num_heads": 4, "depth": 1}
    model = vit(**wide)
    adapter.attach(model, **{**PLAIN, "init": "truncated_normal", "bottleneck": 32}, generator=seeded())
    down = model.blocks[0].mlp.adapter.down
    assert down.abs().max() <= 0.02  # a deviation of 0.01, cut at two: 0.0088 is left
    assert 0.0085 < down.std() < 0.0091
    model = vit(**wide)
    adapter.attach(model, **PLAIN, generator=seeded())
    bound = 1 / math.sqrt(768)
    assert 0.99 * bound < model.blocks[0].mlp.adapter.down.abs().max() <= bound
    model = vit()
    convpass.attach(model, **BYPASS, generator=seeded())
    image = torch.randn(1, BOTTLENECK, 4, 3)
    conv = model.blocks[0].attn.bypass.conv
    torch.testing.assert_close(torch.conv2d(image, conv, padding=1), image)
    model = vit()
    convpass.attach(model, **{**BYPASS, "conv_init": "xavier_uniform"}, generator=seeded())
    bound = math.sqrt(6 / (2 * 9 * BOTTLENECK))
    assert 0.9 * bound < model.blocks[0].attn.bypass.conv.abs().max() <= bound


@pytest.mark.parametrize(
    ("attach", "settings", "wrong", "told"),
    [
        (adapter.attach, PLAIN, {"bottleneck": 0}, r"bottleneck=0"),
        (adapter.attach, PLAIN, {"placements": []}, r"placements=\[\].*after_block"),
        (adapter.attach, PLAIN, {"placements": ["after_mlp", "after_mlp"]}, r"each once"),
        (adapter.attach, PLAIN, {"placements": ["before_mlp"]}, r"before_mlp.*beside_mlp"),
        (adapter.attach, PLAIN, {"activation": "tanh"}, r"activation='tanh'.*relu, gelu"),
        (adapter.attach, PLAIN, {"scale": "token"}, r"scale='token'.*number above 0, or channel"),
        (adapter.attach, PLAIN, {"scale": 0}, r"scale=0"),
        (adapter.attach, PLAIN, {"init": "zeros"}, r"init='zeros'"),
        (adapter.attach, PLAIN, {"dropout": 1.0}, r"dropout=1\.0"),
        (adapter.attach, PLAIN, {"drop_path": -0.1}, r"drop_path=-0\.1"),
        (convpass.attach, BYPASS, {"bottleneck": 0}, r"bottleneck=0"),
        (convpass.attach, BYPASS, {"scale": 0.0}, r"scale=0\.0"),
        (convpass.attach, BYPASS, {"conv_init": "zeros"}, r"conv_init='zeros'.*identity"),
        (convpass.attach, BYPASS, {"dropout": True}, r"dropout=True"),
        (repadapter.attach, REP, {"bottleneck": 0}, r"bottleneck=0"),
        (repadapter.attach, REP, {"groups": 0}, r"groups=0"),
        (repadapter.attach, REP, {"groups": 4}, r"groups=4.*bottleneck 6"),
        (repadapter.attach, REP, {"groups": 3}, r"groups=3.*width 64"),
        (repadapter.attach, REP, {"scale": -1}, r"scale=-1"),
        (binary.attach_adaptformer, BINARY, {"bottleneck": 0}, r"bottleneck=0"),
        (binary.attach_adaptformer, BINARY, {"scale": math.nan}, r"scale=nan"),
        (binary.attach_adaptformer, BINARY, {"dropout": 1}, r"dropout=1"),
        (binary.attach_lora, BINARY_LORA, {"rank": 0}, r"rank=0"),
        (binary.attach_lora, BINARY_LORA, {"scale": 0}, r"scale=0"),
        (binary.attach_lora, BINARY_LORA, {"targets": ["query"]}, r"query"),
    ],
)
def test_a_value_that_does_not_fit_is_named(attach, settings, wrong, told):
    model = vit()
    with pytest.raises(UserError, match=r"method\.attach\..*" + told):
        attach(model, **{**settings, **wrong}, generator=seeded())
    assert not trainable_parameters(model)


def test_repadapter_needs_biases():
    with pytest.raises(UserError, match="VisionTransformer have none"):
        repadapter.attach(vit(qkv_bias=False), **REP, generator=seeded())
