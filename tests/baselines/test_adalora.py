"""AdaLoRA against HF peft: logits, gradients, merging, penalty, importance, and which ranks are pruned in each step."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import moppa
from baselines import adalora
from moppa.peft.collect import collect_diagnostics, penalty, trainable_parameters
from moppa.peft.rank_budget import RankBudget
from moppa.utils.errors import SettingError, UserError
from tests.baselines.low_rank import TARGETS, assert_k_is_unchanged, batch, delta_at, perturbed, vit
from tests.baselines.peft_oracle import assert_equal_to_peft, injected

NUM_STEPS = 12
SETTINGS = {
    "initial_rank": 3,
    "target_rank": 2,
    "alpha": 6,
    "targets": TARGETS,
    "warmup": 2 / NUM_STEPS,
    "final": 3 / NUM_STEPS,
    "beta1": 0.8,
    "beta2": 0.7,
    "orthogonality": 0.3,
}
PEFTS = {"init_r": 3, "target_r": 2, "lora_alpha": 6, "tinit": 2, "tfinal": 3, "total_step": NUM_STEPS, "deltaT": 1}


def attached(**settings):
    model = vit()
    adalora.attach(model, **{**SETTINGS, **settings}, generator=torch.Generator().manual_seed(0))
    return model


def budget_of(model):
    [budget] = [module for module in model.modules() if isinstance(module, RankBudget)]
    return budget


def pairs_of(ours, layers):
    pairs = []
    for key, layer in layers.items():
        delta, index = delta_at(ours, *key)
        pairs += [
            (delta.down[index], layer.lora_A["default"]),
            (delta.up[index], layer.lora_B["default"]),
            (delta.values[index], layer.lora_E["default"]),
        ]
    return pairs


@pytest.mark.parametrize("targets", [pytest.param(("q", "v"), marks=pytest.mark.slow), TARGETS], ids=["q and v", "all"])
def test_adalora_is_that_of_peft(targets):
    ours = perturbed(attached(targets=targets))
    theirs, layers = injected("AdaLoraConfig", targets, beta1=0.8, beta2=0.7, **PEFTS)
    assert_equal_to_peft(ours, theirs, pairs_of(ours, layers))


def assert_equal_averages(budget, pairs, theirs, allocator):
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    by_parameter = {id(our): names[id(their)] for our, their in pairs}
    for name, expected in (("sensitivity", allocator.exp_avg_ipt), ("uncertainty", allocator.exp_avg_unc)):
        for parameter, average in zip(budget.trained(), budget.averages(name), strict=True):
            torch.testing.assert_close(average, expected[by_parameter[id(parameter)]], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("targets", [("v", "fc1"), pytest.param(TARGETS, marks=pytest.mark.slow)], ids=["two", "all"])
def test_importance_budget_and_pruned_ranks_are_those_of_pefts_allocator_in_every_step(targets, unchecked):
    import peft
    from peft.tuners.adalora.layer import RankAllocator

    ours = perturbed(attached(targets=targets), size=0.05).double()
    theirs, layers = injected("AdaLoraConfig", targets, **PEFTS)
    theirs.double()
    config = peft.AdaLoraConfig(beta1=0.8, beta2=0.7, **PEFTS)
    allocator = RankAllocator(theirs, config, "default")
    allocate = SimpleNamespace(
        peft_config={"default": config}, trainable_adapter_name="default", rankallocator=allocator, model=theirs
    )
    pairs, trained = pairs_of(ours, layers), list(trainable_parameters(ours).values())
    theirs.head.load_state_dict(ours.head.state_dict())
    optimizer = torch.optim.SGD(trained, lr=0.5)
    images, labels = batch()
    budgets = []
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(ours(images.double()), labels).backward()
        optimizer.step()
        with torch.no_grad():
            for our, their in pairs:
                their.copy_(our)
                their.grad = our.grad.clone()
        moppa.after_step(ours, torch.tensor(step / NUM_STEPS))
        peft.AdaLoraModel.update_and_allocate(allocate, step)
        if step == 4:
            assert_equal_averages(budget_of(ours), pairs, theirs, allocator)
        for our, their in pairs:
            assert torch.equal(our, their), step
        budgets.append(sum(int(our.count_nonzero()) for our, _ in pairs[2::3]))
        if 0 < step < NUM_STEPS - 3:
            assert budgets[-1] == allocator.budget_schedule(step)[0]
    num_matrices = 2 * len(targets)
    assert budgets[2] == 3 * num_matrices > budgets[3] > budgets[4] > budgets[-1] == 2 * num_matrices
    [ranks] = collect_diagnostics(ours, is_last=True).values()
    assert ranks.sum() == 2 * num_matrices
    assert len(set(ranks.tolist())) > 1, "every matrix kept the same rank"


def test_the_penalty_and_its_gradients_are_those_of_peft():
    import peft

    ours = perturbed(attached(targets=("v", "fc1"))).double()
    theirs, layers = injected("AdaLoraConfig", ("v", "fc1"), **PEFTS)
    theirs.double()
    pairs = pairs_of(ours, layers)
    with torch.no_grad():
        for our, their in pairs:
            their.copy_(our)
    theirs.forward = lambda: SimpleNamespace(loss=torch.zeros((), dtype=torch.float64))
    model = SimpleNamespace(
        model=theirs, trainable_adapter_name="default", peft_config={"default": SimpleNamespace(orth_reg_weight=0.3)}
    )
    expected, actual = peft.AdaLoraModel.forward(model).loss, penalty(ours, 0.0)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=0)
    actual.backward()
    expected.backward()
    for our, their in pairs:
        if their.grad is not None:
            torch.testing.assert_close(our.grad, their.grad, rtol=1e-8, atol=1e-12)


def test_nothing_is_pruned_where_the_target_is_the_start(unchecked):
    model = perturbed(attached(target_rank=3, targets=("v",)))
    F.cross_entropy(model(batch()[0]), batch()[1]).backward()
    for progress in (0.0, 0.5, 0.9):
        moppa.after_step(model, progress)
    assert all(value.all() for delta in budget_of(model).deltas for value in delta.values)


def test_a_copy_and_a_pickled_model_prune_their_own_ranks(unchecked):
    model = perturbed(attached())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        F.cross_entropy(twin(batch()[0]), batch()[1]).backward()
        moppa.after_step(twin, 0.7)
        assert sum(int(value.count_nonzero()) for delta in budget_of(twin).deltas for value in delta.values) == 24
        layer = twin.blocks[1].mlp.fc2.parametrizations.weight[0]
        assert budget_of(twin).deltas[-1] is layer
    assert all(value.all() for delta in budget_of(model).deltas for value in delta.values)


def test_k_stays_bit_for_bit():
    others = {name: value for name, value in SETTINGS.items() if name not in ("alpha", "targets")}
    assert_k_is_unchanged(
        SimpleNamespace(attach=lambda model, *, rank, **given: adalora.attach(model, **{**others, **given}))
    )


def test_without_gradients_the_order_of_calls_is_named():
    with pytest.raises(UserError, match=r"call moppa\.after_step before the next zero_grad"):
        moppa.after_step(attached(), 0.5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"initial_rank": 65}, r"^rank=65 .*64"),
        ({"target_rank": 4}, r"^target_rank=4 is above initial_rank=3"),
        ({"alpha": 0}, r"^alpha=0: .*above 0"),
        ({"warmup": 0.5, "final": 0.5}, r"^warmup=0\.5 and final=0\.5 leave no steps"),
        ({"beta1": 2}, r"^beta1=2: .*at most 1"),
        ({"orthogonality": -1}, r"^orthogonality=-1: .*at least 0"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        attached(**setting)
