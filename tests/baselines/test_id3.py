"""ID3 against the authors' optimizer, rewritten: all weights of the model with masked gradients, and a growing mask."""

import copy

import pytest
import torch
import torch.nn.functional as F

from baselines import id3
from moppa.peft.collect import after_step, persistent_buffers, trainable_parameters
from moppa.peft.inject import merge
from moppa.peft.unmasking import Unmasking
from moppa.utils.errors import SettingError, UserError
from tests.baselines.equations import assert_setting_is_named, images, vit
from tests.train.recorder import record
from tests.train.trainings import StopsAfter, train

SETTINGS = {"budget": 1000, "max_per_step": 400, "epsilon": 0.01, "exponent": 0.7}
NUM_STEPS = 5


def attached(**settings):
    model = vit(depth=1)
    id3.attach(model, **{**SETTINGS, **settings})
    return model.double()


def positions_of(model):
    [positions] = persistent_buffers(model).values()
    return positions


def num_weights(model):
    return next(module.total for module in model.modules() if isinstance(module, Unmasking))


def loss_of(model, step):
    return F.cross_entropy(model(images() * (1 + step)), torch.tensor([step % 5, 3]))


def trained(model, num_steps=NUM_STEPS):
    """Returns the numbers of unmasked weights before each step."""
    [values] = trainable_parameters(model).values()
    optimizer, counts = torch.optim.AdamW([values], lr=1e-2, weight_decay=0.0), []
    for step in range(num_steps):
        counts.append(int((positions_of(model) < num_weights(model)).sum()))
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        after_step(model, (step + 1) / num_steps)
    return counts


def trained_by_the_equation():
    """Returns the weights after the same steps, of which masked ones get no gradient. The mask grows after a step."""
    model = vit(depth=1)
    names = [name for name, one in model.named_parameters() if name.endswith("weight") and one.ndim > 1]
    weights = [model.get_parameter(name).requires_grad_() for name in names if not name.startswith("head")]
    masks = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.0)
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        gradients = [weight.grad.clone() for weight in weights]
        before = [weight.detach().clone() for weight in weights]
        for weight, mask in zip(weights, masks, strict=True):
            weight.grad[~mask] = 0
        optimizer.step()
        importance = [g.abs() / (w.abs() + 0.01) ** 0.7 for g, w in zip(gradients, before, strict=True)]
        cutoff = torch.cat([i[~m] for i, m in zip(importance, masks, strict=True)]).sort(descending=True).values[199]
        for mask, one in zip(masks, importance, strict=True):
            mask |= one >= cutoff
    return {name: weight.detach() for name, weight in zip(names, weights, strict=False)}


def test_the_weights_are_those_of_the_authors_optimizer():
    model = attached()
    trained(model)
    expected, merged = trained_by_the_equation(), merge(copy.deepcopy(model))
    stock, num_changed = vit(depth=1), 0
    assert merged.state_dict().keys() == stock.state_dict().keys()
    for name, weight in merged.named_parameters():
        torch.testing.assert_close(weight, expected.get(name, weight), atol=1e-10, rtol=0)
        num_changed += int((weight != stock.get_parameter(name)).sum())
    assert 0.98 * 800 < num_changed <= 800  # those of the last step are not changed yet
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-10, rtol=0)


def test_the_number_of_weights_follows_the_progress_and_one_step_adds_at_most_so_many():
    assert trained(attached()) == [0, 200, 400, 600, 800]
    assert trained(attached(max_per_step=150)) == [0, 150, 300, 450, 600]
    model = attached()
    trained(model, num_steps=2)
    assert len(positions_of(model).unique()) == 800 + 1  # twice 400, and the position of no weight


def test_the_budget_is_at_most_the_number_of_weights():
    model = attached(budget=10**6)
    [values] = trainable_parameters(model).values()
    weights = [layer.weight for layer in vit(depth=1).modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    assert len(values) == sum(weight.numel() for weight in weights) - 5 * 64  # those of the head


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_recorded_training_unmasks_as_the_eager_one_and_resumes_with_the_same_bits(tmp_path):
    expected = train("id3", tmp_path / "eager", epochs=3)
    assert train("id3", tmp_path / "recorded", epochs=3, recorder=record) == expected
    with pytest.raises(ConnectionError):
        train("id3", tmp_path / "stopped", epochs=3, logger=StopsAfter(4))
    assert train("id3", tmp_path / "stopped", epochs=3) == expected


def test_an_update_without_gradients_is_named():
    with pytest.raises(UserError, match=r"call moppa\.after_step once after each backward"):
        after_step(attached(), 0.5)


@pytest.mark.parametrize("setting", ["budget", "max_per_step", "epsilon"])
def test_a_bad_setting_is_named(setting):
    assert_setting_is_named(
        lambda model, generator, **given: id3.attach(model, **given), {**SETTINGS, setting: 0}, rf"^{setting}=0"
    )


def test_a_negative_exponent_is_named():
    with pytest.raises(SettingError, match=r"^exponent=-1"):
        id3.attach(vit(), **{**SETTINGS, "exponent": -1})
