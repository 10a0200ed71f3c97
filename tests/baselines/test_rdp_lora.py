"""RDP LoRA: the pivots against the recursive algorithm with a tolerance, and the adapted blocks against LoRA."""

import pytest
import torch

from baselines import lora, rdp_lora
from moppa.peft.blocks import find_blocks
from moppa.peft.collect import trainable_parameters
from moppa.peft.trajectory import pivots, trajectory_products
from moppa.utils.errors import SettingError
from tests.baselines import low_rank
from tests.baselines.equations import seeded, vit

SETTINGS = {"fraction": 0.5, "rank": 3, "alpha": 6, "targets": ("q", "v"), "num_images": 3, "batch_size": 2}
LORA = {"rank": 3, "alpha": 6, "targets": ("q", "v"), **low_rank.LORA}


def examples():
    generator = seeded(4)
    return [(torch.randn(2, 3, 64, 64, generator=generator), torch.arange(2)) for _ in range(2)]


def simplified(points, tolerance, first=0, last=None):
    """Returns the indices that the algorithm of Douglas and Peucker keeps, both ends included."""
    last = len(points) - 1 if last is None else last
    direction = (points[last] - points[first]) / (points[last] - points[first]).norm()
    distances = [
        (p - points[first] - (p - points[first]) @ direction * direction).norm() for p in points[first + 1 : last]
    ]
    if not distances or max(distances) <= tolerance:
        return {first, last}
    middle = first + 1 + distances.index(max(distances))
    return simplified(points, tolerance, first, middle) | simplified(points, tolerance, middle, last)


@pytest.mark.parametrize("seed", range(3))
def test_the_pivots_are_those_of_some_tolerance(seed):
    points = torch.randn(12, 40, generator=seeded(seed), dtype=torch.float64).cumsum(dim=0)
    kept = {frozenset(simplified(points, tolerance)) for tolerance in torch.linspace(0, 20, 40)}
    assert len(kept) > 5
    for expected in kept:
        assert {0, *pivots(points @ points.T, len(expected) - 1)} == expected


def test_points_on_a_line_and_repeated_points_are_no_pivots():
    line = torch.arange(6.0, dtype=torch.float64)[:, None] * torch.ones(1, 3, dtype=torch.float64)
    bent = line.clone()
    bent[3, 0] += 1
    assert pivots(bent @ bent.T, 2) == [3, 5]
    closed = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    assert pivots(closed @ closed.T, 2) == [2, 3]


def test_the_products_are_those_of_all_tokens_of_the_first_images_and_the_model_stays_as_it_was():
    model, stock = vit(depth=3).train(), vit(depth=3)
    names, batches = list(model.state_dict()), [(images.double(), labels) for images, labels in examples()]
    products = trajectory_products(model, find_blocks(model), batches)
    assert list(model.state_dict()) == names
    assert model.training
    points = []
    x = stock.norm_pre(stock._pos_embed(stock.patch_embed(torch.cat([images for images, _ in batches]))))
    for block in [torch.nn.Identity(), *stock.blocks]:
        x = block(x)
        points.append(x.flatten())
    points = torch.stack(points)
    torch.testing.assert_close(products, points @ points.T, rtol=1e-10, atol=1e-8)


def test_the_blocks_at_the_pivots_have_a_lora_and_the_others_none():
    model, reference = low_rank.vit(depth=4), low_rank.attached(lora, depth=4, **LORA)
    rdp_lora.attach(model, **SETTINGS, generator=seeded(), examples=examples)
    images = torch.cat([images for images, _ in examples()])[:3]
    x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    points = [x.flatten().double()]
    for block in low_rank.vit(depth=4).blocks:
        x = block(x)
        points.append(x.flatten().double())
    points = torch.stack(points)
    expected = {0, *pivots(points @ points.T, 2)}
    trained = {name: tensor for name, tensor in trainable_parameters(model).items() if not name.startswith("head")}
    assert {0, *(int(name.split(".")[1]) + 1 for name in trained)} == expected
    low_rank.perturbed(model)
    assert not reference.load_state_dict(trainable_parameters(model), strict=False).unexpected_keys
    assert torch.equal(model(low_rank.batch()[0]), reference(low_rank.batch()[0]))


@pytest.mark.parametrize("setting", ["fraction", "rank", "alpha", "num_images", "batch_size"])
def test_a_bad_setting_is_named(setting):
    with pytest.raises(SettingError, match=rf"^{setting}=0"):
        rdp_lora.attach(low_rank.vit(), **{**SETTINGS, setting: 0}, generator=None, examples=examples)
