"""What each strategy keeps and adds, against numpy, without a training."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from baselines import lora, share
from moppa.continual.opcm import MergedInOrder
from moppa.continual.projection import OrthogonalProjection, Projection, main_rows
from moppa.continual.sequential import Independent, Sequential
from moppa.continual.share import Share
from moppa.continual.strategy import as_delta, as_tensors, updates_of_model
from moppa.merging import opcm
from moppa.merging.updates import LowRank, dense
from moppa.peft.collect import after_step, trainable_parameters
from moppa.peft.method import attach_method
from moppa.utils.errors import UserError
from tests.baselines.equations import seeded, vit

pytestmark = pytest.mark.usefixtures("unchecked")  # the parts of a cell are not real
RANK, DIM = 3, 64
TASKS = ("one", "two", "three")
LAYERS = [f"blocks.{depth}.attn.qkv.weight" for depth in range(2)]
CPU = torch.device("cpu")


def attach_lora(model, *, generator):
    settings = {"rank": RANK, "alpha": 6.0, "targets": ["q", "v"], "share_down": False}
    lora.attach(model, **settings, init="kaiming_uniform", dropout=0.0, generator=generator)


class Fake:
    """The parts of a cell, as far as a strategy needs them. `replace` gives it another method."""

    def __init__(self, method=attach_lora, finished=None):
        self.method, self.finished = method, finished

    def attached(self, _device):
        model = vit().float()
        model.get_classifier().requires_grad_(True)
        others = {} if self.finished is None else {"finished": self.finished}
        attach_method(model, self.method, generator=seeded(1), examples=list, **others)
        return SimpleNamespace(model=model)


def trained(strategy, seed):
    """Returns the model that a strategy starts a task with, with other values in all that is trained."""
    model = strategy.attach(Fake(), CPU).model
    with torch.no_grad():
        for tensor in trainable_parameters(model).values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=seeded(seed)))
    after_step(model, 1.0)
    return model


def learn(strategy, tasks=TASKS):
    """Lets a strategy learn tasks and returns their models."""
    models = []
    for seed, task in enumerate(tasks):
        models.append(trained(strategy, seed))
        strategy.learn(task, models[-1])
    return models


def matrices(delta):
    return {name: dense(update).double().numpy() for name, update in delta.items()}


def assert_equal(actual, expected, atol=1e-6):
    assert actual.keys() == expected.keys()
    for name, matrix in expected.items():
        np.testing.assert_allclose(actual[name], matrix, atol=atol)


def resumed(strategy, make):
    """Returns a new strategy that continues after what another one has kept."""
    other = make()
    other.resume({name: tensor.clone() for name, tensor in strategy.tensors.items()}, strategy.tasks)
    return other


def test_sequential_fine_tuning_goes_on_with_one_update():
    strategy = Sequential()
    [*_, last] = learn(strategy)
    assert list(strategy.delta("one")) == LAYERS
    assert_equal(matrices(strategy.delta("one")), matrices(updates_of_model(last)))
    again = trainable_parameters(resumed(strategy, Sequential).attach(Fake(), CPU).model)
    for name, tensor in trainable_parameters(last).items():
        assert torch.equal(tensor, again[name]) == ("parametrizations" in name)  # the head is a fresh one


def test_independent_updates_and_their_merge_in_the_order_of_arrival():
    alone, merged = Independent(), MergedInOrder(alpha=0.5)
    models = learn(alone)
    learn(merged)
    for task, model in zip(TASKS, models, strict=True):
        assert_equal(matrices(alone.delta(task)), matrices(updates_of_model(model)))
    expected = opcm.merge_in_order([updates_of_model(model) for model in models], alpha=0.5)
    assert_equal(matrices(merged.delta("one")), matrices(expected))
    assert_equal(matrices(resumed(merged, lambda: MergedInOrder(alpha=0.5)).delta("two")), matrices(expected))
    other = opcm.merge_in_order([updates_of_model(model) for model in reversed(models)], alpha=0.5)
    assert not np.allclose(matrices(expected)[LAYERS[0]], matrices(other)[LAYERS[0]], atol=1e-3)


def make_share(components):
    settings = {"rank": RANK, "components": components, "temporary": 2, "std": 0.1, "targets": ["q", "v"]}
    attach = partial(share.attach, **settings, records=[], basis_seed=0)
    return Share(method={"name": "share", "attach": attach})


@pytest.fixture(autouse=True)
def replaceable(monkeypatch):
    monkeypatch.setattr("moppa.continual.share.replace", lambda _, **changed: Fake(**changed))


def test_share_keeps_every_update_while_the_subspace_has_room():
    strategy = make_share(components=9)
    models = learn(strategy)
    assert {module.__class__.__name__ for module in models[1].modules()} >= {"ShareDelta"}
    for task, model in zip(TASKS, models, strict=True):
        assert_equal(matrices(strategy.delta(task)), matrices(updates_of_model(model)), atol=1e-4)


def test_share_projects_the_factors_of_all_tasks_on_their_principal_directions():
    strategy = make_share(components=4)
    models = [trained(strategy, 0)]
    strategy.learn("one", models[0])
    before = strategy.factors("one")
    models.append(trained(strategy, 1))
    strategy.learn("two", models[1])
    [(layer, delta)] = [
        (name, layer.parametrizations.weight[0])
        for name, layer in models[1].named_modules()
        if name == "blocks.1.attn.qkv"
    ]
    downs = delta.factors()[0]
    for index in range(2):
        name = f"{layer}.parametrizations.weight.0.down.{index}"
        columns = np.concatenate([before[name].T.numpy(), downs[index].detach().T.numpy()], axis=1).astype(np.float64)
        u, _, _ = np.linalg.svd(columns - columns.mean(axis=1, keepdims=True))
        kept = u[:, :4] @ u[:, :4].T @ columns
        np.testing.assert_allclose(strategy.factors("one")[name].T, kept[:, :RANK], atol=1e-4)
        np.testing.assert_allclose(strategy.factors("two")[name].T, kept[:, RANK:], atol=1e-4)
        assert np.abs(kept - columns).max() > 1e-2
    again = resumed(strategy, lambda: make_share(components=4))
    assert_equal(matrices(again.delta("one")), matrices(strategy.delta("one")))


def test_a_projected_update_does_not_change_what_earlier_updates_read():
    strategy = OrthogonalProjection(energy=1.0)
    first, second, _ = learn(strategy)
    one, two = (matrices(updates_of_model(model)) for model in (first, second))
    for name in LAYERS:
        assert np.abs(one[name]).max() > 1e-2
        assert np.abs(two[name]).max() > 1e-2
        np.testing.assert_allclose(two[name] @ one[name].T, 0, atol=1e-6)
    sums = matrices(strategy.delta(""))
    start = dict(
        resumed(strategy, lambda: OrthogonalProjection(energy=1.0)).attach(Fake(), CPU).model.named_parameters()
    )
    for name in LAYERS:
        original = name.replace("weight", "parametrizations.weight.original")
        added = start[original] - dict(vit().float().named_parameters())[name]
        np.testing.assert_allclose(added.numpy(), sums[name], atol=1e-6)


def test_the_main_rows_are_numpys():
    update = LowRank(torch.randn(8, 5, generator=seeded(1)), torch.randn(5, 12, generator=seeded(2)))
    _, s, vh = np.linalg.svd(dense(update).double().numpy())
    shares = np.cumsum(s**2) / np.sum(s**2)
    for energy in (0.0, 0.5, 0.9, 1.0):
        count = 0 if energy == 0 else min(int(np.searchsorted(shares, energy - 1e-6)) + 1, 5)
        rows = main_rows(update, energy).double().numpy()
        assert len(rows) == count
        np.testing.assert_allclose(rows.T @ rows, vh[:count].T @ vh[:count], atol=1e-5)


def test_a_step_moves_factors_only_outside_of_the_subspace():
    rows = torch.linalg.qr(torch.randn(DIM, 4, generator=seeded(1))).Q.T
    down = torch.randn(RANK, DIM, generator=seeded(2))
    expected = down - down @ rows.T @ rows
    Projection([([down], rows)]).after_step(0.5)
    torch.testing.assert_close(down, expected)
    assert (down @ rows.T).abs().max() < 1e-5


def test_deltas_come_back_from_their_tensors():
    delta = {"a.weight": LowRank(torch.ones(3, 1), torch.ones(1, 2)), "b.weight": torch.zeros(2, 2)}
    back = as_delta(as_tensors(delta, "x") | as_tensors({"c": torch.ones(1)}, "y"), "x")
    assert back.keys() == delta.keys()
    assert isinstance(back["a.weight"], LowRank)
    assert torch.equal(back["b.weight"], delta["b.weight"])


def test_a_method_without_low_rank_updates_is_named():
    with pytest.raises(UserError, match=r"choose a method that does, as method=lora"):
        updates_of_model(vit())
