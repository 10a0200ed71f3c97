"""DiffFit against gains that multiply the residual branches of a model whose biases and norms are trained."""

import timm
import torch
from timm.models.vision_transformer import ResPostBlock

from baselines import difffit
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from tests.baselines.equations import assert_equal_to, attached, forward, images, seeded, vit


def attach(model, generator):
    difffit.attach(model)


def test_difffit_is_gains_of_the_branches_and_trained_biases_and_norms():
    stock, model = vit(), attached(attach, {})

    def equation(p):
        plain = {name.replace("parametrizations.", "").replace(".original", ""): tensor for name, tensor in p.items()}
        plain = {name: tensor for name, tensor in plain.items() if not name.endswith(".0.scale")}

        def branch(depth, path, x):
            gain = p[f"blocks.{depth}.{path}.parametrizations.weight.0.scale"]
            module, own = path.split(".")[0], f"blocks.{depth}.{path.split('.')[0]}."
            tensors = {name.removeprefix(own): tensor for name, tensor in plain.items() if name.startswith(own)}
            return gain * torch.func.functional_call(stock.blocks[depth].get_submodule(module), tensors, (x,))

        for name, tensor in plain.items():  # norms and the patch embedding; leaves of the equation's graph
            owner, _, kind = name.rpartition(".")
            module = stock.get_submodule(owner)
            if kind in module._parameters and ".attn." not in name and ".mlp." not in name:
                del module._parameters[kind]
            if ".attn." not in name and ".mlp." not in name:
                setattr(module, kind, tensor)
        return forward(
            stock,
            lambda depth, _, z: branch(depth, "attn.proj", z),
            lambda depth, _, z: branch(depth, "mlp.fc2", z),
        )

    assert_equal_to(model, equation)
    expected, fresh = model(images()), vit()
    fresh.load_state_dict(merge(model).state_dict(), strict=True)
    torch.testing.assert_close(fresh(images()), expected, atol=1e-10, rtol=0)


def test_if_the_norm_comes_last_the_gain_multiplies_what_it_returns():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit", depth=1, img_size=64, block_fn=ResPostBlock, init_values=1.0).double()
    model.requires_grad_(False).eval()
    x = torch.randn(2, 17, 64, generator=seeded(), dtype=torch.float64)
    block = model.blocks[0]
    middle = x + 2 * block.norm1(block.attn(x))
    expected = middle + 3 * block.norm2(block.mlp(middle))
    difffit.attach(model)
    model.double()
    for norm, gain in ((block.norm1, 2.0), (block.norm2, 3.0)):
        torch.nn.init.constant_(norm.parametrizations.weight[0].scale, gain)
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)


def test_a_layer_without_a_bias_has_a_gain_too():
    model = vit(proj_bias=False)
    difffit.attach(model)
    assert sum(name.endswith("scale") for name in trainable_parameters(model)) == 4
