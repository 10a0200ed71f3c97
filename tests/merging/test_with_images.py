"""The algorithms that read training images: least squares over inputs, and learned coefficients and masks."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moppa.merging import average, concrete, do_merging, learned, lot, regmean
from moppa.merging.learned import cross_entropy, entropy, learn_coefficients, weight_gradients
from moppa.merging.training_images import TrainingImages
from moppa.merging.updates import LowRank, dense, stack
from moppa.peft.layer_inputs import Recorder
from tests.merging.deltas import MERGES, assert_close, dense_deltas, draw, low_rank_deltas, made_dense, settings_of


class Layer(nn.Sequential):
    """One linear layer in place of a backbone."""

    def forward_features(self, images):
        return self(images)


class Training(TrainingImages):
    """Tasks of random images and one linear layer, in place of a backbone with heads.

    `order` says which images and which outputs are those of each task.
    """

    network, pretrained = None, None

    def __init__(self, order=(0, 1)):
        self.order = order
        self.network = Layer(nn.Linear(6, 12))
        for index, parameter in enumerate(self.network.parameters()):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(index))
        self.pretrained = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    @property
    def num_tasks(self):
        return len(self.order)

    @torch.no_grad()
    def set_delta(self, delta):
        for name, parameter in self.network.named_parameters():
            parameter.copy_(self.pretrained[name] + (dense(delta[name]) if name in delta else 0))

    def draw(self, task, count, *names, seed):
        return draw(count, 6, seed=self.order[task]).float(), torch.arange(count) % 3

    def logits(self, images, task):
        first = 3 * self.order[task]
        return self.network(images)[:, first : first + 3]


READS_IMAGES = [name for name in MERGES if "training" in inspect.signature(settings_of(name)[0]).parameters]
QUICK = {"steps": 3, "num_images": 16}


def merge_with(name, deltas, training, **others):
    """Returns what an algorithm gives with the settings of its YAML, a few steps and a few images."""
    function, values = settings_of(name)
    quick = {setting: value for setting, value in QUICK.items() if setting in values}
    return function(deltas, **values | quick | others, seed=0, training=training)


@pytest.mark.parametrize("name", READS_IMAGES)
def test_the_order_of_the_experts_does_not_matter(name):
    first, second = experts()
    merged = merge_with(name, [first, second], Training())
    assert_close(merge_with(name, [second, first], Training(order=(1, 0))), merged, tolerance=1e-5)


@pytest.mark.parametrize("name", READS_IMAGES)
def test_factors_give_what_dense_matrices_give(name):
    merged = merge_with(name, experts(), Training())
    assert_close(merge_with(name, made_dense(experts()), Training()), merged, tolerance=1e-5)


@pytest.mark.parametrize("name", READS_IMAGES)
def test_a_single_expert_comes_back_unless_something_is_learned(name):
    settings = {"atlas": {"steps": 0, "initial": 1.0}, "adamerging": {"steps": 0, "initial": 1.0}}
    settings["concrete"] = {"steps": 0}
    [expert] = experts(1)
    merged = merge_with(name, [expert], Training(order=(0,)), **settings.get(name, {}))
    assert_close(merged, expert, tolerance=1e-4)


def experts(count=2):
    """Returns experts of the layer, one of low rank."""
    first = {"0.weight": LowRank(draw(12, 2, seed=1).float(), draw(2, 6, seed=2).float()), "0.bias": torch.ones(12)}
    return [first, *({"0.weight": draw(12, 6, seed=3 + index).float()} for index in range(count - 1))]


@pytest.mark.parametrize(("module", "settings"), [(regmean, {"diagonal": 1.0}), (lot, {})])
def test_identity_gram_matrices_give_the_average(module, settings, monkeypatch):
    def identity(delta, *_, **__):
        return {n: torch.eye(u.shape[1], dtype=torch.float64) for n, u in delta.items() if len(u.shape) == 2}

    monkeypatch.setattr(module, "layer_inputs", identity)
    for deltas in (dense_deltas(), low_rank_deltas()):
        merged = module.merge(deltas, num_images=1, seed=0, training=Training(), **settings)
        assert_close(merged, average.merge(deltas))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("module", "settings"), [(regmean, {"diagonal": 1.0}), (lot, {})])
def test_the_outputs_are_those_of_least_squares(module, settings, count, monkeypatch):
    inputs = [draw(20, 6, seed=index) for index in range(count)]
    deltas = [{"w": draw(4, 6, seed=10 + index)} for index in range(count)]
    grams = iter([{"w": x.T @ x} for x in inputs])
    monkeypatch.setattr(module, "layer_inputs", lambda *_, **__: next(grams))
    merged = module.merge(deltas, num_images=1, seed=0, training=Training(), **settings)["w"]
    outputs = torch.cat([x @ delta["w"].T for x, delta in zip(inputs, deltas, strict=True)])
    torch.testing.assert_close(merged, torch.linalg.lstsq(torch.cat(inputs), outputs).solution.T)


def test_lot_weighs_the_scales_of_norms_by_their_channels(monkeypatch):
    squares = iter([{"norm.weight": torch.tensor([1.0, 3.0])}, {"norm.weight": torch.tensor([3.0, 0.0])}])
    monkeypatch.setattr(lot, "layer_inputs", lambda *_, **__: next(squares))
    deltas = [{"norm.weight": torch.tensor([4.0, 1.0])}, {"norm.weight": torch.tensor([0.0, 5.0])}]
    assert lot.merge(deltas, num_images=1, seed=0, training=Training())["norm.weight"].tolist() == [1.0, 1.0]


def test_a_recorder_sums_what_a_layer_reads():
    x, norm = draw(2, 3, 6, seed=1).float(), nn.LayerNorm(6)
    linear = Recorder(nn.Linear(6, 2))
    torch.testing.assert_close(linear(x), linear.layer(x))
    torch.testing.assert_close(linear.sum, x.flatten(0, 1).T @ x.flatten(0, 1))
    recorder = Recorder(norm)
    recorder(x)
    nn.init.constant_(norm.weight, 5.0)  # the normalized channels have neither scale nor shift
    torch.testing.assert_close(recorder.sum, F.layer_norm(x, (6,)).flatten(0, 1).square().sum(dim=0))


@pytest.mark.parametrize("loss", [cross_entropy, entropy])
def test_the_gradient_of_a_coefficient_is_that_of_autograd(loss):
    training, deltas = Training(), experts()
    coefficients = torch.full((2,), 0.3, requires_grad=True)
    updates = {name: stack(deltas, name) for name in ("0.weight", "0.bias")}
    tensors = {
        name: training.pretrained[name] + torch.tensordot(coefficients, update, 1) for name, update in updates.items()
    }
    total = 0.0
    for task in range(2):
        images, labels = training.draw(task, 4, seed=0)
        logits = torch.func.functional_call(training.network, tensors, images)[:, 3 * task : 3 * task + 3]
        total = total + loss(logits, labels)
    total.backward()
    merged = {name: 0.3 * update.sum(dim=0) for name, update in updates.items()}
    gradients = weight_gradients(merged, training, loss=loss, batch_size=4, step=0, seed=0)
    products = [
        sum(learned.inner_product(delta[name], gradients[name]) for name in updates if name in delta)
        for delta in deltas
    ]
    torch.testing.assert_close(torch.stack(products), coefficients.grad)
    assert not any(parameter.requires_grad for name, parameter in training.network.named_parameters() if name in merged)


def test_learned_coefficients_lower_the_loss_and_start_from_task_arithmetic():
    training, deltas = Training(), experts()
    groups = {"0.weight": 1, "0.bias": 0}

    def learn(steps):
        merged = learn_coefficients(
            deltas, training, groups=groups, loss=cross_entropy, initial=0.5, steps=steps, lr=0.1, batch_size=4, seed=0
        )
        training.set_delta(merged)
        batches = [training.draw(task, 4, seed=0) for task in range(2)]
        losses = [cross_entropy(training.logits(x, task), labels) for task, (x, labels) in enumerate(batches)]
        return merged, sum(losses).item()

    start, before = learn(0)
    assert_close(start, {name: 0.5 * stack(deltas, name).sum(dim=0) for name in groups}, tolerance=1e-6)
    assert learn(10)[1] < before


def test_a_concrete_mask_has_mean_one_and_lowers_the_entropy():
    training, deltas = Training(), experts()
    settings = {"scale": 0.3, "temperature": 0.5, "lr": 0.3, "batch_size": 4, "seed": 0, "training": training}
    start = concrete.merge(deltas, steps=0, **settings)
    assert_close(start, {name: stack(deltas, name).sum(dim=0) for name in ("0.weight", "0.bias")}, tolerance=1e-6)

    def entropy_of(delta):
        training.set_delta({name: 0.3 * tensor for name, tensor in delta.items()})
        batches = [training.draw(task, 4, seed=0) for task in range(2)]
        return sum(
            entropy(training.logits(images, task), labels) for task, (images, labels) in enumerate(batches)
        ).item()

    learned_delta = concrete.merge(deltas, steps=15, **settings)
    assert entropy_of(learned_delta) < entropy_of(start)
    ratio = learned_delta["0.weight"] / start["0.weight"]
    torch.testing.assert_close(ratio.mean(), torch.tensor(1.0), rtol=1e-3, atol=1e-3)


def test_do_merging_makes_the_factors_orthogonal_and_merges_norms_and_directions_apart():
    factors = [draw(8, 2, seed=index) for index in range(3)]

    def overlap(parts):
        return max(float((parts[a].T @ parts[b]).abs().max()) for a in range(3) for b in range(3) if a != b)

    moved = do_merging.orthogonalized(factors, steps=200, lr=0.1, penalty=0.01)
    assert overlap(moved) < 0.3 * overlap(factors)
    updates = [draw(5, 4, seed=index) for index in range(2)]
    norms = [update.norm(dim=0) for update in updates]
    directions = [update / norm for update, norm in zip(updates, norms, strict=True)]
    merged = do_merging.merge_matrix(updates, steps=0, lr=0.1, penalty=0.1)
    torch.testing.assert_close(merged, sum(norms) / 2 * sum(directions) / 2)
