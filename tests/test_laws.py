"""Laws that every method obeys. They apply to each YAML in configs/method/, also to a new one."""

import copy
import functools
import pickle
import re

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from moppa.backbone.efficient_blocks import SKIPPABLE, skip_unused
from moppa.data.split import Split
from moppa.peft.collect import count_parameters, penalty, trainable_parameters, trained_tensors
from moppa.peft.inject import disable_output_deltas, merge
from moppa.peft.method import attach_method
from moppa.train.checkpoint import Checkpoint
from moppa.train.loggers import NoLogger
from moppa.train.loop import train
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.matmul import set_matmul_backend, use_backend
from moppa.utils.seeds import generator_for, seeded
from tests.conftest import CONFIGS, METHODS, QUICK_METHODS, config_of, mostly_slow
from tests.models import (
    BACKBONES,
    FAMILIES,
    attach,
    batch,
    frozen_model,
    logits_of,
    method_from_yaml,
    model_with,
    perturbed,
    take_steps,
    trainable_bytes,
    trained_with,
    with_drop_path,
    without_dropout,
)

# What a method's YAML states: the paper's number of parameters, and the backbones for which the method is defined.
FACTS = re.compile(
    r"(at most )?([\d,]+) trainable parameters on ViT-B/16 at 224 px, without the head; "
    r"defined on ((?:ViT|Swin|ConvNeXt|, | and )+)\."
)
# Prompts and prefixes are additional tokens, so that no initial value gives the logits of the frozen model. NOAH's code
# draws Up. SNELL's gradient is zero at the frozen model, and its points are drawn. Tied blocks are other blocks.
STARTS_WITH_OTHER_LOGITS = {"vpt_shallow", "vpt_deep", "vfpt", "tap_slf", "mam", "snell", "adapter_noah", "lora_noah"}
STARTS_WITH_OTHER_LOGITS |= {"relaxed_recursive", "prefix", "autopeft"}
DROPS_PRETRAINED_TENSORS = {"relaxed_recursive"}  # those that the tied ones replace


@functools.cache
def facts_of(method):
    """Returns the number of parameters, the backbone families and whether the number is a budget, from a YAML."""
    match = FACTS.search((CONFIGS / "method" / f"{method}.yaml").read_text())
    if match is None:  # one test says so; the others treat the method as one for ViTs
        return None, ["ViT"], False
    return int(match[2].replace(",", "")), re.split(", | and ", match[3]), bool(match[1])


def is_defined(method, backbone):
    return FAMILIES[backbone] in facts_of(method)[1]


@pytest.mark.parametrize("method", METHODS)
def test_a_yaml_states_parameters_and_backbones(method):
    sentence = f"the output of `moppa count method={method}` must be on one line of configs/method/{method}.yaml"
    assert facts_of(method)[0] is not None, sentence


PAIRS = [(method, backbone) for method in METHODS for backbone in BACKBONES]
DEFINED = [pair for pair in PAIRS if is_defined(*pair)]
UNDEFINED = [pair for pair in PAIRS if not is_defined(*pair) and facts_of(pair[0])[0] is not None]
ON_VIT = [pair for pair in DEFINED if FAMILIES[pair[1]] == "ViT"]


def name_of(pair):
    return "-".join(pair).replace(" ", "_")


def mostly_slow_pairs(pairs, fast_backbone=None):
    """Returns the parameters of a law: of most methods only those on `fast_backbone` are fast tests."""
    return [
        pytest.param(
            pair,
            id=name_of(pair),
            marks=[] if pair[1] == fast_backbone or pair[0] in QUICK_METHODS else pytest.mark.slow,
        )
        for pair in pairs
    ]


@pytest.fixture(scope="module", params=mostly_slow_pairs(DEFINED, "class token"))
def trained(request):
    """A trained model that the laws of one method and backbone share. They run in succession and change copies only."""
    return trained_with(*request.param)


def test_1_no_pretrained_tensor_changes(trained):
    present = {id(parameter) for parameter in trained.model.parameters()}
    dropped = [parameter.numel() for parameter in trained.pretrained.values() if id(parameter) not in present]
    counts = trained.model.backbone_params
    assert bool(dropped) == (counts["kept"] < counts["pretrained"]) == (trained.method in DROPS_PRETRAINED_TENSORS)
    assert dropped or counts["kept"] == counts["pretrained"] == sum(map(torch.numel, trained.pretrained.values()))
    assert trained.unchanged_by_attaching == trained.pretrained.keys()
    frozen = {name for name, parameter in trained.pretrained.items() if not parameter.requires_grad}
    is_full_fine_tuning = len(trained.trained) == len(present)
    assert frozen or is_full_fine_tuning
    assert frozen <= trained.unchanged_by_training


def test_2_every_trainable_tensor_has_a_gradient_within_two_steps(trained):
    without_gradient = {name for name, largest in trained.largest_gradients.items() if largest == 0}
    if trained.method == "moppa":  # a head that reads one token sees only the zero frequency of the last queries
        [*_, last_qkv] = (name for name, _ in trained.model.named_modules() if name.endswith(".qkv"))
        without_gradient = {name for name in without_gradient if not name.startswith(f"{last_qkv}.units.q.operator.")}
    assert not without_gradient


def test_3_the_first_logits_are_those_of_the_frozen_model(trained):
    is_equal = torch.equal(trained.initial_logits, trained.stock_logits)
    assert is_equal == (trained.method not in STARTS_WITH_OTHER_LOGITS)


def test_4_merging_keeps_the_logits(trained):
    names = trained.model.state_dict()
    changes_weights_only = all("parametrizations" in name or name in trained.stock_names for name in names)
    assert not torch.allclose(trained.logits, trained.initial_logits, atol=1e-3)
    model = merge(copy.deepcopy(trained.model))
    torch.testing.assert_close(logits_of(model), trained.logits, atol=1e-5, rtol=0)
    if changes_weights_only:
        stock = BACKBONES[trained.backbone]()
        stock.load_state_dict(model.state_dict(), strict=True)
        torch.testing.assert_close(logits_of(stock), trained.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("trained", mostly_slow_pairs(DEFINED), indirect=True)
def test_5_the_same_seed_gives_the_same_bytes(trained, unchecked):
    before = torch.get_rng_state()
    model = model_with(trained.method, trained.backbone)
    with seeded(0):
        take_steps(model)
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator was used or seeded"
    assert trainable_bytes(model) == trained.trained
    assert trainable_bytes(model_with(trained.method, trained.backbone, seed=1)) != trained.initial


def test_6_trained_tensors_loaded_into_a_new_model_give_the_same_logits(trained):
    other = model_with(trained.method, trained.backbone, seed=7)
    saved = {name: tensor.detach().clone() for name, tensor in trained_tensors(trained.model).items()}
    assert saved.keys() == trained_tensors(other).keys()
    other.load_state_dict(saved, strict=False)
    assert torch.equal(logits_of(other), trained.logits)


@functools.cache
def vit_b16_on_meta():
    """Returns a frozen ViT-B/16 without values, and a trainable head. Tests change a copy."""
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=10).requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    return model


@pytest.mark.parametrize("method", [method for method in METHODS if not facts_of(method)[2]])
def test_7_the_number_of_parameters_is_the_papers(method):
    method_from_yaml(method)  # imports it, before values go to the meta device
    with torch.device("meta"):
        model = attach(copy.deepcopy(vit_b16_on_meta()), method)
    if facts_of(method)[0] is None:
        pytest.skip("its YAML states no number")
    assert count_parameters(model) == {"trainable_params": facts_of(method)[0], "head_params": 7690}


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in METHODS if facts_of(method)[2]])
def test_7_a_method_with_a_budget_uses_most_of_it_and_no_more(method):
    with seeded(0):
        model = timm.create_model("vit_base_patch16_224", num_classes=10, img_size=32).requires_grad_(False)
        images, labels = torch.randn(1, 3, 32, 32), torch.ones(1, dtype=torch.int64)
    attach_method(
        model,
        method_from_yaml(method),
        generator=generator_for(0, "method"),
        examples=lambda: [(images, labels)],
    )
    assert 0.8 < count_parameters(model)["trainable_params"] / facts_of(method)[0] <= 1


def test_7_the_numbers_are_those_that_the_papers_print():
    printed = {
        "linear": 0,
        "lora": 294_912,
        "moppa": 24 * (2 * 768 * 4 + 3 * 4 + 14 * 14 + 4 * 4 + 4),  # the formula of docs/moppa.md
        "full": 85_798_656,
        "bitfit": 102_912,
        "vpt_deep": 92_160,
        "vpt_shallow": 100 * 768,
        "ssf": 205_824,
        "fact_tt": 61_440,
        "fact_tk": 86_528,
        "adaptformer": 156_768,
        "adapter": 156_768,
        "houlsby": 313_536,
        "convpass": 327_552,
        "repadapter": 239_808,
        "nola": 49_152,
    }
    assert {method: facts_of(method)[0] for method in printed} == printed


@pytest.mark.parametrize("trained", mostly_slow_pairs(DEFINED), indirect=True)
def test_8_a_deep_copy_is_independent_and_a_pickled_one_gives_the_same_logits(trained, unchecked):
    model = copy.deepcopy(trained.model)
    model.train()(batch()[0])  # a forward pass may store a penalty
    twin = copy.deepcopy(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_steps(twin, count=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in twin.state_dict().items())
    expected = logits_of(twin)
    assert torch.equal(logits_of(pickle.loads(pickle.dumps(twin))), expected)
    merge(model)
    assert torch.equal(logits_of(twin), expected)


@pytest.mark.parametrize(("method", "backbone"), UNDEFINED)
def test_a_method_that_is_not_defined_for_a_backbone_names_it(method, backbone):
    with pytest.raises(UserError, match=type(frozen_model(backbone)).__name__):
        model_with(method, backbone)


def outputs_and_gradients(model, *, training=False):
    """Returns logits of a batch and the gradients of all trainable tensors, by name."""
    images, labels = batch()
    model.zero_grad()
    with seeded(0):
        logits = model.train(training)(images)
    (F.cross_entropy(logits, labels) + (penalty(model, 0.0) if training else 0.0)).backward()
    return {"logits": logits, **{name: tensor.grad for name, tensor in trainable_parameters(model).items()}}


def assert_close(actual, expected, *, rtol):
    for name, tensor in expected.items():
        torch.testing.assert_close(
            actual[name], tensor, rtol=rtol, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    "method", mostly_slow([method for method in METHODS if is_defined(method, "class token")], QUICK_METHODS)
)
def test_parametrized_layers_compute_the_output_of_their_weight(method):
    """The fast path of a parametrized layer and its full weight give the same outputs and the same gradients."""
    model = model_with(method)
    take_steps(model)
    expected = outputs_and_gradients(model)
    assert_close(outputs_and_gradients(disable_output_deltas(model)), expected, rtol=1e-3)


@pytest.mark.parametrize("pair", mostly_slow_pairs(ON_VIT))
def test_9_skipping_unused_computation_changes_neither_logits_nor_gradients(pair, unchecked):
    model = without_dropout(with_drop_path(perturbed(model_with(*pair)), 0.4))
    expected = {training: outputs_and_gradients(model, training=training) for training in (False, True)}
    for optimizations in (*([name] for name in SKIPPABLE), SKIPPABLE):
        efficient = skip_unused(copy.deepcopy(model), optimizations)
        for training in (True, False) if optimizations == SKIPPABLE else (True,):
            actual = outputs_and_gradients(efficient, training=training)
            assert_close(actual, expected[training], rtol=1e-4)


@pytest.mark.parametrize("pair", mostly_slow_pairs(DEFINED))
def test_10_the_matmul_backend_changes_neither_logits_nor_gradients(pair, unchecked):
    model = perturbed(model_with(*pair))
    results = []
    for name in ("torch", "onednn"):
        set_matmul_backend(name)
        with use_backend():
            logits = model.eval()(batch()[0])
        model.zero_grad()
        F.cross_entropy(logits, batch()[1]).backward()
        with use_backend():
            merged = logits_of(merge(copy.deepcopy(model)))
        gradients = {name: tensor.grad for name, tensor in trainable_parameters(model).items()}
        results.append({"logits": logits, "merged": merged, **gradients})
    assert_close(results[1], results[0], rtol=1e-4)


class HostSynchronizations(TorchDispatchMode):
    """Counts operations for which a GPU would make the host wait: values that are read, and constants that are sent."""

    OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "_unique2", "equal")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.OPERATIONS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", mostly_slow(METHODS, QUICK_METHODS))
def test_11_no_step_makes_the_host_wait(method, tmp_path, unchecked):
    def count_synchronizations(num_steps):
        backbone = "class token" if is_defined(method, "class token") else "convnext"
        model = skip_unused(model_with(method, backbone), ["last_block_tokens"])
        images = np.zeros((6 * num_steps, 64, 64, 3), dtype=np.uint8)
        config = config_of("task=eurosat", f"method={method}", "train.epochs=1", "train.batch_size=6")
        with HostSynchronizations() as synchronizations:
            train(
                model,
                Split(images=images, labels=np.arange(len(images)) % 10, digest=""),
                recipe=instantiate(config, "train"),
                normalize=instantiate(config, "backbone").preprocess(model).normalize,
                seed=0,
                checkpoint=Checkpoint(path=tmp_path / f"{num_steps}.pt", epochs=1, code={}),
                logger=NoLogger(),
                on_epoch=lambda *_: {},
            )
        return synchronizations.count

    count_synchronizations(1)  # includes what a process sends only once
    assert 0 < count_synchronizations(2) == count_synchronizations(3)
