"""FourierFT against HF peft, and where its entries come from."""

import pytest
import torch

from baselines import fourierft
from moppa.utils.errors import SettingError
from tests.baselines.low_rank import TARGETS, delta_at, perturbed, vit
from tests.baselines.peft_oracle import assert_equal_to_peft, injected

SETTINGS = {"num_coefficients": 30, "scale": 50, "targets": TARGETS, "entries_seed": 3}


def attached(**settings):
    model = vit()
    fourierft.attach(model, **{**SETTINGS, **settings})
    return model


@pytest.mark.parametrize("targets", [("q", "v"), TARGETS], ids=["q and v", "all"])
def test_fourierft_is_that_of_peft(targets):
    ours = perturbed(attached(targets=targets), size=1.0)
    theirs, layers = injected("FourierFTConfig", targets, n_frequency=30, scaling=50.0)
    pairs = []
    for key, layer in layers.items():
        delta, index = delta_at(ours, *key)
        entries = delta.entries
        layer.indices["default"] = torch.stack([entries // layer.in_features, entries % layer.in_features])
        pairs.append((delta.spectrum[index], layer.fourierft_spectrum["default"]))
    assert_equal_to_peft(ours, theirs, pairs, tolerance=1e-5)  # peft transforms in float32


def test_matrices_of_one_shape_share_their_entries_which_come_from_their_seed():
    one, other = attached(), attached(entries_seed=4)
    first, last, wide = (
        one.get_submodule(name).parametrizations.weight[0].entries
        for name in ("blocks.0.attn.qkv", "blocks.1.attn.proj", "blocks.0.mlp.fc1")
    )
    assert torch.equal(first, last)
    assert not torch.equal(first, wide)
    assert not torch.equal(first, other.blocks[0].attn.qkv.parametrizations.weight[0].entries)
    assert len(wide.unique()) == 30
    assert not [name for name in one.state_dict() if "entries" in name]


def test_a_small_matrix_has_a_coefficient_for_each_entry():
    [delta] = attached(num_coefficients=5000).blocks[0].attn.proj.parametrizations.weight
    assert delta.entries.sort().values.tolist() == list(range(64 * 64))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_coefficients": 0}, r"^num_coefficients=0: .*at least 1"),
        ({"scale": 0}, r"^scale=0: .*above 0"),
        ({"entries_seed": -1}, r"^entries_seed=-1: .*at least 0"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        attached(**setting)
