"""Small models for low-rank methods, and the same models as HF peft adapts them."""

import timm
import torch
import torch.nn.functional as F
from torch import nn

from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge

TARGETS = ("q", "k", "v", "proj", "fc1", "fc2")
LORA = {"share_down": False, "init": "kaiming_uniform", "dropout": 0.0}


def vit(depth=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit", depth=depth, img_size=64, num_classes=10).requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # no norm or bias is at its initial value
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.get_classifier().requires_grad_(True)
    return model.eval()


def attached(method, depth=2, seed=0, **settings):
    model = vit(depth)
    method.attach(model, generator=torch.Generator().manual_seed(seed), **settings)
    return model


@torch.no_grad()
def perturbed(model, size=0.2):
    """Moves every trainable tensor away from its initial value."""
    generator = torch.Generator().manual_seed(1)
    for parameter in trainable_parameters(model).values():
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 3, 64, 64, generator=generator), torch.arange(4)


def backward(model):
    """Computes the gradients of a batch and returns its logits."""
    images, labels = batch()
    logits = model(images.to(model.head.weight.dtype))
    F.cross_entropy(logits, labels).backward()
    return logits.detach()


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


class SplitQKV(nn.Module):
    """timm's qkv as three layers, which peft can adapt separately."""

    def __init__(self, qkv):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(qkv.in_features, qkv.out_features // 3) for _ in range(3))
        for layer, weight, bias in zip((self.q, self.k, self.v), qkv.weight.chunk(3), qkv.bias.chunk(3), strict=True):
            layer.weight, layer.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)

    def forward(self, x):
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def adapted_by_peft(targets, **settings):
    """Returns the same model as HF peft adapts it, and its adapted layers by block and target."""
    from peft import LoraConfig, inject_adapter_in_model

    model = vit()
    for block in model.blocks:
        block.attn.qkv = SplitQKV(block.attn.qkv)
    paths = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"} | {name: f"attn.qkv.{name}" for name in "qkv"}
    names = {
        (depth, target): f"blocks.{depth}.{paths[target]}" for depth in range(len(model.blocks)) for target in targets
    }
    config = LoraConfig(target_modules=list(names.values()), lora_dropout=0.0, **settings)
    model = inject_adapter_in_model(config, model).eval()
    model.get_classifier().requires_grad_(True)
    return model, {key: model.get_submodule(name) for key, name in names.items()}


def delta_at(model, depth, target):
    """Returns the delta of one target, and the index of the target among the delta's adapted matrices."""
    block = model.blocks[depth]
    layer = {"proj": block.attn.proj, "fc1": block.mlp.fc1, "fc2": block.mlp.fc2}.get(target, block.attn.qkv)
    [delta] = layer.parametrizations.weight
    is_stacked = len(delta.is_adapted) > 1
    return delta, sum(delta.is_adapted[: "qkv".index(target)]) if is_stacked else 0


def assert_equal_to_peft(method, targets, *, use_dora):
    """Asserts that logits and gradients of LoRA or DoRA are those of HF peft with the same tensors."""
    ours = perturbed(attached(method, rank=3, alpha=6, targets=targets, **({} if use_dora else LORA)))
    theirs, layers = adapted_by_peft(targets, r=3, lora_alpha=6, use_dora=use_dora)
    theirs.head.load_state_dict(ours.head.state_dict())
    pairs = []
    for key, layer in layers.items():
        delta, index = delta_at(ours, *key)
        pairs += [
            (delta.down[index], layer.lora_A["default"].weight),
            (delta.up[index], layer.lora_B["default"].weight),
        ]
        if use_dora:
            magnitude = layer.lora_magnitude_vector["default"].weight
            with torch.no_grad():  # peft's starts at the norm of W, ours is the distance from it
                magnitude += delta.magnitude[index].flatten()
            pairs.append((delta.magnitude[index], magnitude))
    with torch.no_grad():
        for our, their in pairs:
            if our.shape == their.shape:
                their.copy_(our)
    assert_close(backward(ours), backward(theirs))
    for our, their in pairs:
        assert their.grad.abs().max() > 1e-4
        assert_close(our.grad.view_as(their), their.grad)
    compared = {id(our) for our, _ in pairs}
    trained = trainable_parameters(ours).items()
    assert compared == {id(parameter) for name, parameter in trained if not name.startswith("head")}


def assert_k_is_unchanged(method, **settings):
    """Asserts that a method of q and v changes their rows of the fused weight, and no bit of k."""
    stock, model = vit(), perturbed(attached(method, rank=2, alpha=2, targets=["q", "v"], **settings))
    for before, after in zip(stock.blocks, model.blocks, strict=True):
        pairs = zip(before.attn.qkv.weight.chunk(3), after.attn.qkv.weight.chunk(3), strict=True)
        assert [old.equal(new) for old, new in pairs] == [False, True, False]
    assert stock.state_dict().keys() == merge(model).state_dict().keys()
