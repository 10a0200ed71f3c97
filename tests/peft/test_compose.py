"""Several methods in one model: what they share, what each keeps, and which cannot be combined."""

import copy
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf

from moppa.peft import compose
from moppa.peft.collect import count_parameters, trainable_parameters
from moppa.peft.method import attach_method
from moppa.record.schema import key_of
from moppa.sweep.expand import expand_cells
from moppa.utils.config import to_plain
from moppa.utils.errors import SettingError, UserError
from moppa.utils.method_yaml import read_method_yaml
from moppa.utils.seeds import generator_for, seeded
from tests.conftest import CONFIGS, config_of, mostly_slow
from tests.models import (
    batch,
    frozen_model,
    logits_of,
    method_from_yaml,
    model_with,
    perturbed,
    take_steps,
    trainable_bytes,
)


def composed(*methods, backbone="class token", layers=None, changes=()):
    """Returns a small model with several methods attached: m0, m1, ... `changes` are paths in them, with values."""
    parts = {f"m{i}": read_method_yaml(CONFIGS / "method" / f"{name}.yaml") for i, name in enumerate(methods)}
    for path, value in dict(changes).items():
        *outer, last = path.split(".")
        node = parts
        for name in outer:
            node = node[name]
        node[last] = value
    return attach_method(
        frozen_model(backbone),
        partial(compose.attach, methods=parts, layers=layers),
        generator=generator_for(0, "method"),
        examples=lambda: [batch(seed=3)],
    )


@pytest.mark.parametrize(
    "method", mostly_slow(["lora", "vpt_deep", "adaptformer", "ssf", "bitfit", "mam"], {"vpt_deep"})
)
def test_a_method_composed_alone_is_the_method_bit_for_bit(method):
    model, alone = composed(method), model_with(method)
    assert trainable_bytes(model) == trainable_bytes(alone)
    for each in (model, alone):
        with seeded(0):
            take_steps(each)
    assert trainable_bytes(model) == trainable_bytes(alone)
    assert torch.equal(logits_of(model), logits_of(alone))


PAIRS = [
    ("lora", "adaptformer"),
    ("adapter", "adaptformer"),
    ("vpt_deep", "lora"),
    ("mam", "lora"),
    ("adapter_plus", "vpt_shallow"),
    ("houlsby", "bi_adaptformer"),
    ("lora", "nola"),
    ("moppa", "lora"),
    ("moppa", "houlsby"),
    ("mam", "queryable_lora"),
]


def in_turn(methods, backbone="class token"):
    """Returns a small model to which methods were attached one after the other, and what each of them trains."""
    model, tensors, generator = frozen_model(backbone), {}, generator_for(0, "method")
    for method in methods:
        before = {id(tensor) for tensor in trainable_parameters(model).values()}
        attach_method(model, method_from_yaml(method), generator=generator, examples=list)
        tensors[method] = [value for value in trainable_parameters(model).values() if id(value) not in before]
    return model, tensors


@pytest.mark.parametrize(
    "pair", [pytest.param(pair, marks=() if pair in PAIRS[:2] else pytest.mark.slow) for pair in PAIRS], ids="-".join
)
def test_the_order_of_methods_does_not_matter_if_they_add_to_different_places_or_to_a_sum(pair):
    model, tensors = in_turn(pair)
    other, others = in_turn(pair[::-1])
    perturbed(model)
    with torch.no_grad():
        other.get_classifier().load_state_dict(model.get_classifier().state_dict())
        for method in pair:
            for tensor, value in zip(others[method], tensors[method], strict=True):
                tensor.copy_(value)
    torch.testing.assert_close(logits_of(other), logits_of(model))
    assert not torch.allclose(logits_of(model), logits_of(frozen_model()), atol=1e-2)


def test_composed_methods_are_those_that_are_attached_in_turn():
    methods = ("vpt_deep", "lora", "adaptformer")
    model, tensors = in_turn(methods)
    assert trainable_bytes(composed(*methods)) == trainable_bytes(model)
    counts = [count_parameters(model_with(method)) for method in methods]
    assert count_parameters(model)["trainable_params"] == sum(count["trainable_params"] for count in counts)
    assert all(len(tensors[method]) == len(in_turn([method])[1][method]) for method in methods)


def test_the_order_is_that_of_the_places_which_a_sorted_file_keeps():
    parts = {
        place: read_method_yaml(CONFIGS / "method" / f"{name}.yaml")
        for place, name in (("b", "lora"), ("a", "adapter"))
    }
    model = frozen_model()
    compose.attach(model, methods=parts, layers=None, generator=generator_for(0, "method"), examples=list)
    assert trainable_bytes(model) == trainable_bytes(composed("adapter", "lora"))


def test_layers_restrict_what_a_method_changes():
    own = {"m0.layers": [0, 2], "m1.layers": [False, True, False]}
    names = list(trainable_parameters(composed("lora", "adapter_plus", changes=own)))
    assert {name.split(".")[1] for name in names if ".parametrizations." in name} == {"0", "2"}
    assert {name.split(".")[1] for name in names if ".adapter." in name} == {"1"}
    names = list(trainable_parameters(composed("lora", "adapter_plus", layers=[1], changes={"m0.layers": []})))
    assert {name.split(".")[1] for name in names if name.startswith("blocks")} == {"1"}
    assert not any("parametrizations" in name for name in names)  # of the first, which is not attached


def test_prompts_of_some_layers_are_those_of_a_model_that_has_only_these():
    """Blocks 1 and 2 with deep prompts of their own: the first block is that of the frozen model."""
    model = composed("vpt_deep", layers=[1, 2])
    frozen, seen = frozen_model(), []
    images = batch(seed=2)[0]
    for each in (model, frozen):
        each.blocks[0].register_forward_hook(lambda *arguments: seen.append(arguments[2]))
        logits_of(each)
    assert torch.equal(*seen)
    assert model.blocks[1].prompts.shape == model.blocks[2].prompts.shape == (10, 64)
    assert model.forward_features(images).shape == frozen.forward_features(images).shape


CONFLICTS = {
    "the whole backbone": (("lora", "full"), "trains the whole backbone"),
    "a head that is solved for": (("lora", "linear"), "methods.m1=linear: it solves for the head"),
    "two methods that choose by images": (("gps", "mask_tuning"), "both choose what to train by images"),
    "images through a changed model": (("lora", "gps"), "methods.m1=gps chooses .*; give it the first place"),
    "prompts and the grid of tokens": (("vpt_deep", "convpass"), "adds tokens, and the other reads all tokens"),
    "two kinds of prompts": (("vpt_deep", "vpt_shallow"), "both add tokens"),
    "a bias that both change": (("ssf", "bitfit"), "both change patch_embed.proj.bias"),
    "the same tensors": (("difffit", "lntune"), "methods.m1=lntune adds nothing to be trained"),
    "a weight that is replaced": (("lora", "relaxed_recursive"), "attach the tied blocks first"),
    "another width": (("lst", "vpt_deep"), "cannot be combined in VisionTransformer"),
    "an adapter before a changed weight": (("lora", "repadapter"), "attach it first"),
}


QUICK = set(CONFLICTS) - {"two kinds of prompts", "the same tensors", "another width"}


@pytest.mark.parametrize("name", mostly_slow(CONFLICTS, QUICK))
def test_methods_that_cannot_be_combined_are_one_error(name):
    methods, message = CONFLICTS[name]
    with pytest.raises(UserError, match=message):
        composed(*methods)


SLIPS = {
    "a setting beside attach": ({"m0.rank": 4}, "methods.m0.rank: there is no such setting"),
    "an unknown setting": ({"m0.attach.rnk": 4}, "^methods.m0.attach.rnk: .*lora has rank, alpha"),
    "a bad value": ({"m0.attach.rank": 0}, "^methods.m0.attach.rank=0: .*integer"),
    "a missing value": ({"m0.attach": {"_target_": "baselines.lora.attach"}}, "attach.rank is missing: lora needs it"),
    "no method": ({"m1": {"layers": [1]}}, "methods.m1: this is no method"),
    "no function": ({"m0.attach._target_": "baselines.lora.attached"}, "methods.m0.attach._target_=baselines.lora"),
    "a block that is not there": ({"m0.layers": [3]}, r"^methods.m0.layers=\[3\]: give depths from 0 to 2"),
    "a negative block": ({"m0.layers": [-1]}, "^methods.m0.layers=-1: .*at least 0"),
    "a word": ({"m0.layers": "all"}, "methods.m0.layers='all': give depths"),
    "too few": ({"m0.layers": [True, False]}, r"m0.layers=\[True, False\]: .* each of 3"),
    "a composition": ({"m0.attach._target_": "moppa.peft.compose.attach"}, "a composition in a composition"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_in_a_composition_is_one_error_that_names_the_setting(name):
    changes, message = SLIPS[name]
    with pytest.raises(SettingError, match=message):
        composed("lora", changes=changes)


def test_layers_of_a_method_that_changes_more_than_blocks_are_an_error():
    with pytest.raises(UserError, match=r"methods.m0=bitfit also changes patch_embed.proj.bias, outside of its"):
        composed("bitfit", layers=[1])


def test_the_values_of_all_methods_are_in_the_key_and_their_code_is_not():
    config = to_plain(config_of("task=eurosat", "method=compose"))

    def key(**changes):
        changed = copy.deepcopy(config)
        for path, value in changes.items():
            OmegaConf.update(node := OmegaConf.create(changed), path.replace("__", "."), value, force_add=True)
            changed = to_plain(node)
        return key_of(changed, "w", "float32")

    first = "method__attach__methods__a"
    others = [
        {f"{first}__attach__rank": 4},
        {f"{first}__name": "ssf"},
        {f"{first}__version": 2},
        {f"{first}__layers": [0]},
        {"method__attach__layers": [0]},
        {"method__attach__methods__c": {"name": "ssf", "attach": {"before_pooling": True}}},
    ]
    assert len({key(), *(key(**changes) for changes in others)}) == 1 + len(others)
    assert key(**{f"{first}__attach___target_": "elsewhere.attach", "method__attach___recursive_": True}) == key()
    assert key(**{f"{first}__attach__share_down": False}) == key()  # as in a cell of LoRA alone


def test_the_yaml_is_read_alike_with_and_without_hydra():
    for method in ("compose", "lora"):
        assert (
            read_method_yaml(CONFIGS / "method" / f"{method}.yaml")
            == to_plain(config_of("task=eurosat", f"method={method}"))["method"]
        )


@pytest.mark.slow
def test_swept_methods_are_composed_as_hydra_composes_them():
    words = ["method=compose", "task=eurosat"]
    swept = ["method@method.attach.methods.a=lora,ssf", "method@method.attach.methods.b=adapter,vpt_deep"]
    cells = expand_cells(CONFIGS, [*words, *swept])
    names = [[part["name"] for part in cell["method"]["attach"]["methods"].values()] for cell in cells]
    assert names == [["lora", "adapter"], ["lora", "vpt_deep"], ["ssf", "adapter"], ["ssf", "vpt_deep"]]
    last = ["method@method.attach.methods.a=ssf", "method@method.attach.methods.b=vpt_deep"]
    assert cells[-1] == to_plain(config_of(*words, *last))
