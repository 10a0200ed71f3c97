"""PACE against its equation, its noise by depth as in the authors' code, and that it is off by default."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import einsum

from baselines import adapter, lora
from moppa.peft.collect import penalties, trainable_parameters
from moppa.record.schema import key_of
from moppa.train import pace
from moppa.train.pace import FeatureNoise, Pace, PairedDropPath, noisy_features, with_consistency
from moppa.utils.config import to_plain
from moppa.utils.errors import SettingError, UserError
from tests.baselines.equations import forward, gelu, images, perturbed, seeded, vit
from tests.conftest import config_of
from tests.models import batch, model_with, with_drop_path
from tests.train.recorder import record
from tests.train.trainings import StopsAfter, train

pytestmark = pytest.mark.usefixtures("unchecked")
SETTINGS = Pace(weight=0.7, sigma=1.2, from_block=0)
LABELS = torch.tensor([1, 3])
ON = ("train.pace=1.0", "train.pace_sigma=1.2")


def lora_logits(stock, p, noises):
    """Returns the logits of LoRA on v, scaled by 2, whose update is multiplied by the next noise."""

    def attention(depth, block, z):
        path = f"blocks.{depth}.attn.qkv.parametrizations.weight.0"
        update = einsum("bni,ri,or->bno", z, p[f"{path}.down.0"], p[f"{path}.up.0"])
        qkv = block.attn.qkv(z) + F.pad(2 * update, (128, 0)) * next(noises)
        q, k, v = qkv.unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        return block.attn.proj((weights @ v).transpose(1, 2).flatten(2))

    return forward(stock, attention, lambda depth, block, z: block.mlp(z))


def adapter_logits(stock, p, noises):
    """Returns the logits of an adapter beside the MLP, multiplied by the next noise."""

    def mlp(depth, block, z):
        path = f"blocks.{depth}.mlp.adapter."
        hidden = gelu(einsum("bnc,hc->bnh", z, p[path + "down"]) + p[path + "down_bias"])
        added = einsum("bnh,ch->bnc", hidden, p[path + "up"]) + p[path + "up_bias"]
        return block.mlp(z) + added * next(noises)

    return forward(stock, lambda depth, block, z: block.attn(z), mlp)


LORA = {"rank": 3, "alpha": 6, "targets": ["v"], "share_down": False, "init": "kaiming_uniform", "dropout": 0.0}
ADAPTER = {"bottleneck": 6, "placements": ["beside_mlp"], "activation": "gelu", "scale": 1.0, "init": "kaiming_uniform"}


@pytest.mark.parametrize(
    ("attach", "settings", "equation"),
    [(lora.attach, LORA, lora_logits), (adapter.attach, {**ADAPTER, "dropout": 0.0, "drop_path": 0.0}, adapter_logits)],
    ids=["lora", "adapter"],
)
def test_pace_is_multiplicative_noise_and_the_distance_of_two_passes(attach, settings, equation, monkeypatch):
    drawn, randn, inputs = [], torch.randn, images()
    model = vit()
    attach(model, **settings, generator=seeded())
    model.head.requires_grad_(True)
    perturbed(model.double())
    parameters = trainable_parameters(model)
    copies = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
    with noisy_features(model.train(), SETTINGS), monkeypatch.context() as patch:
        patch.setattr(pace.torch, "randn", lambda *shape, **given: drawn.append(randn(*shape, **given)) or drawn[-1])
        twice, penalty = with_consistency(model, model, penalties(model), SETTINGS)
        actual = F.cross_entropy(twice(inputs), LABELS) + penalty(0.0)
    channels = 192 if attach is lora.attach else 64
    assert [tuple(noise.shape) for noise in drawn] == [(4, 1, channels), (4, 1, channels), (4, 5)]

    stock, sigmas, logits = vit(), (1.2, 1.2 * 2 / 3, 1.2 / 3), []
    stock.forward_head = lambda x: F.linear(x[:, 0], copies["head.weight"], copies["head.bias"])
    for half in (slice(2), slice(2, 4)):
        noises = iter([1 + sigma * noise[half] for sigma, noise in zip(sigmas, drawn, strict=True)])
        logits.append(equation(stock, copies, noises) * next(noises))
    expected = F.cross_entropy(logits[0], LABELS) + 0.7 * ((logits[0] - logits[1]) ** 2).sum(dim=1).mean()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=0)
    actual_gradients = torch.autograd.grad(actual, list(parameters.values()))
    for name, gradient in zip(copies, actual_gradients, strict=True):
        [reference] = torch.autograd.grad(expected, copies[name], retain_graph=True)
        torch.testing.assert_close(gradient, reference, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("from_block", [0, 1])
def test_sigma_falls_with_the_depth_as_in_the_authors_code(from_block):
    theirs = np.concatenate([np.zeros(from_block), np.linspace(0, 1.2, 13 - from_block + 1)[-1:0:-1]])
    ours = [Pace(weight=1.0, sigma=1.2, from_block=from_block).sigma_at(depth, 12) for depth in range(13)]
    assert ours == pytest.approx(theirs.tolist())


def test_both_passes_have_equal_drop_path_and_the_model_is_restored():
    model = with_drop_path(perturbed(model_with("adapter")), 0.5).train()
    without_noise = Pace(weight=1.0, sigma=0.0, from_block=1)
    with noisy_features(model, without_noise):
        assert not [part for part in model.modules() if isinstance(part, DropPath) and part.drop_prob]
        twice, penalty = with_consistency(model, model, penalties(model), without_noise)
        logits = [twice(batch()[0]) for _ in range(2)]
        assert float(penalty(0.0).detach()) == pytest.approx(0, abs=1e-9)
    assert not torch.equal(*logits)
    assert not [part for part in model.modules() if isinstance(part, FeatureNoise | PairedDropPath)]
    assert len([part for part in model.modules() if isinstance(part, DropPath)]) >= 6


def test_it_is_off_by_default_with_equal_bytes_and_keys():
    model, config = model_with("lora"), to_plain(config_of("task=eurosat"))
    assert with_consistency(model, model, penalties, None) == (model, penalties)
    before = list(model.modules())
    with noisy_features(model, None):
        assert list(model.modules()) == before
    old = {**config, "train": {name: value for name, value in config["train"].items() if "pace" not in name}}
    on = {**config, "train": {**config["train"], "pace": 1.0}}
    assert key_of(old, "w", "float32") == key_of(config, "w", "float32") != key_of(on, "w", "float32")


def test_a_training_with_pace_has_other_losses(tmp_path):
    losses = [train("lora", tmp_path / str(len(on)), epochs=1, recipe=on)[0] for on in ((), ON)]
    assert losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "adapter", "moppa", "ssf", "dora"])
def test_a_training_with_pace_is_recorded_and_resumes_with_the_same_bits(method, tmp_path):
    whole = train(method, tmp_path / "a", epochs=3, recipe=ON)
    with pytest.raises(ConnectionError):
        train(method, tmp_path / "b", epochs=3, recipe=ON, recorder=record, logger=StopsAfter(4))
    assert train(method, tmp_path / "b", epochs=3, recipe=ON) == whole


def test_a_method_without_features_of_its_own_and_a_block_that_is_missing_are_named():
    with (
        pytest.raises(SettingError, match=r"train\.pace=0\.7: this method adds nothing"),
        noisy_features(model_with("linear"), SETTINGS),
    ):
        pass
    deep = Pace(weight=1.0, sigma=1.0, from_block=3)
    with (
        pytest.raises(UserError, match=r"train\.pace_from_block=3: the model has 3 blocks"),
        noisy_features(model_with("lora"), deep),
    ):
        pass
