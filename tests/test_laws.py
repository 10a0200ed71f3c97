"""The laws that every method obeys; a new YAML in configs/method/ is held to them by itself."""

import copy
import functools
import re

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from moppa.backbone.efficient_blocks import SKIPPABLE, ClassTokenAttention, EfficientBlock, skip_unused
from moppa.data.cache import Split
from moppa.peft.collect import count_parameters, penalty, trainable_parameters
from moppa.peft.inject import DirectLinear, merge
from moppa.train.checkpoint import Checkpoint
from moppa.train.loggers import NoLogger
from moppa.train.loop import train
from moppa.utils.config import call_with_supported, instantiate
from moppa.utils.errors import UserError
from moppa.utils.matmul import as_chosen, set_matmul_backend
from moppa.utils.seeds import generator_for, seeded
from tests.conftest import CONFIGS, METHODS, config_of

# What a method's YAML says of itself, which the laws hold it to: the paper's size, and where it is defined.
FACTS = re.compile(
    r"(at most )?([\d,]+) trainable parameters on ViT-B/16 at 224 px, without the head; "
    r"defined on ((?:ViT|Swin|ConvNeXt|, | and )+)\."
)

BACKBONES = {
    "class token": lambda: timm.create_model("test_vit", depth=3, img_size=64, num_classes=10),
    "no prefix": lambda: timm.create_model(
        "test_vit", depth=3, img_size=64, num_classes=10, class_token=False, global_pool="avg"
    ),
    "registers": lambda: timm.create_model("test_vit", depth=3, img_size=64, num_classes=10, reg_tokens=4),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        num_classes=10,
        window_size=4,
        embed_dim=16,
        depths=(1, 2),
        num_heads=(2, 4),
        drop_path_rate=0.0,
    ),
    "convnext": lambda: timm.create_model(
        "test_convnext", num_classes=10, pretrained_cfg_overlay={"input_size": (3, 64, 64)}
    ),
}
FAMILY = {"class token": "ViT", "no prefix": "ViT", "registers": "ViT", "swin": "Swin", "convnext": "ConvNeXt"}
# Prompts are tokens of their own, which no start makes absent.
STARTS_ELSEWHERE = {"vpt_shallow", "vpt_deep"}


@functools.cache
def facts_of(method):
    """The trainable parameters and the families of backbones that the YAML of a method names."""
    found = FACTS.search((CONFIGS / "method" / f"{method}.yaml").read_text())
    assert found, f"configs/method/{method}.yaml must say, on one line of its opening comment: {FACTS.pattern}"
    return int(found[2].replace(",", "")), re.split(", | and ", found[3]), bool(found[1])


DEFINED = [(method, name) for method in METHODS for name in BACKBONES if FAMILY[name] in facts_of(method)[1]]
UNDEFINED = [(method, name) for method in METHODS for name in BACKBONES if FAMILY[name] not in facts_of(method)[1]]

everywhere = pytest.mark.parametrize(("method", "backbone"), DEFINED, ids=lambda name: name.replace(" ", "_"))


def bare(backbone="class token", seed=0):
    """A stock timm model, frozen, with weights that are the same each time and a head that the seed decides."""
    with seeded(1):
        model = BACKBONES[backbone]().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))  # no norm or bias is at its plain start
    head = model.get_classifier().requires_grad_(True)
    torch.nn.init.normal_(head.weight, std=0.1, generator=generator_for(seed, "head"))
    return model


@functools.cache
def attach_of(method):
    return instantiate(config_of("task=eurosat", f"method={method}"), "method.attach", _partial_=True)


def attach(model, method, seed=0):
    call_with_supported(
        attach_of(method), model, generator=generator_for(seed, "method"), examples=lambda: [batch(seed=3)]
    )
    return model


def fresh(method, backbone="class token", seed=0):
    return attach(bare(backbone, seed=seed), method, seed=seed)


def batch(seed=1, count=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 64, 64, generator=generator), torch.arange(count) % 10


def take_steps(model, count=2):
    """Plain training steps; gives the largest gradient that each trainable tensor ever had."""
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=1e-2)
    seen = dict.fromkeys(trainable_parameters(model), 0.0)
    model.train()
    images, labels = batch()
    for _ in range(count):
        optimizer.zero_grad()
        (F.cross_entropy(model(images), labels) + penalty(model, 0.0)).backward()
        for name, parameter in trainable_parameters(model).items():
            seen[name] = max(seen[name], 0.0 if parameter.grad is None else float(parameter.grad.abs().max()))
        optimizer.step()
    return seen


@torch.no_grad()
def logits_of(model):
    return model.eval()(batch(seed=2)[0])


@everywhere
def test_1_no_pretrained_tensor_changes(method, backbone):
    model = bare(backbone)
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    pretrained = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in head}
    before = {name: parameter.detach().clone() for name, parameter in pretrained.items()}
    attach(model, method)
    held = {id(parameter) for parameter in model.parameters()}
    assert all(id(parameter) in held for parameter in pretrained.values())
    assert all(torch.equal(parameter, before[name]) for name, parameter in pretrained.items())
    take_steps(model)
    frozen = {name: parameter for name, parameter in pretrained.items() if not parameter.requires_grad}
    assert frozen or len(trainable_parameters(model)) == len(
        list(model.parameters())
    )  # only full fine-tuning leaves nothing frozen
    assert all(torch.equal(parameter, before[name]) for name, parameter in frozen.items())


@everywhere
def test_2_every_trainable_tensor_has_a_gradient_within_two_steps(method, backbone):
    seen = take_steps(fresh(method, backbone))
    assert not [name for name, largest in seen.items() if largest == 0]


@everywhere
def test_3_the_first_logits_are_the_frozen_models(method, backbone):
    if method in STARTS_ELSEWHERE:
        assert not torch.equal(logits_of(fresh(method, backbone)), logits_of(bare(backbone)))
        return
    assert torch.equal(logits_of(fresh(method, backbone)), logits_of(bare(backbone)))


@everywhere
def test_4_merging_keeps_the_logits(method, backbone):
    model = fresh(method, backbone)
    stock_names = set(bare(backbone).state_dict())
    is_pure_weight = all("parametrizations" in name or name in stock_names for name in model.state_dict())
    take_steps(model)
    expected = logits_of(model)
    assert not torch.allclose(expected, logits_of(fresh(method, backbone)), atol=1e-3)
    merge(model)
    torch.testing.assert_close(logits_of(model), expected, atol=1e-5, rtol=0)
    if is_pure_weight:
        stock = BACKBONES[backbone]()
        stock.load_state_dict(model.state_dict(), strict=True)
        torch.testing.assert_close(logits_of(stock), expected, atol=1e-5, rtol=0)


@everywhere
def test_5_the_same_seed_gives_the_same_bytes(method, backbone):
    def trained(seed):
        model = fresh(method, backbone, seed=seed)
        with seeded(seed):
            take_steps(model)
        return {name: parameter.detach().numpy().tobytes() for name, parameter in trainable_parameters(model).items()}

    before = torch.get_rng_state()
    first = trained(0)
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator was used or reseeded"
    assert trained(0) == first
    assert trained(1) != first


@everywhere
def test_6_saved_and_loaded_into_a_fresh_attach_gives_the_same_logits(method, backbone):
    model = fresh(method, backbone)
    take_steps(model)
    other = fresh(method, backbone, seed=7)
    saved = {name: parameter.detach().clone() for name, parameter in trainable_parameters(model).items()}
    assert saved.keys() == trainable_parameters(other).keys()
    other.load_state_dict(saved, strict=False)
    assert torch.equal(logits_of(other), logits_of(model))


@pytest.mark.parametrize("method", [method for method in METHODS if not facts_of(method)[2]])
def test_7_the_size_is_the_papers(method):
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=10).requires_grad_(False)
        model.get_classifier().requires_grad_(True)
        attach(model, method)
    assert count_parameters(model) == {"trainable_params": facts_of(method)[0], "head_params": 7690}


@pytest.mark.parametrize("method", [method for method in METHODS if facts_of(method)[2]])
def test_7_a_method_with_a_budget_stays_within_it_and_uses_most_of_it(method):
    with seeded(0):
        model = timm.create_model("vit_base_patch16_224", num_classes=10, img_size=32).requires_grad_(False)
        images, labels = torch.randn(1, 3, 32, 32), torch.ones(1, dtype=torch.int64)
    call_with_supported(
        attach_of(method), model, generator=generator_for(0, "method"), examples=lambda: [(images, labels)]
    )
    assert 0.8 < count_parameters(model)["trainable_params"] / facts_of(method)[0] <= 1


def test_7_the_sizes_that_the_papers_print():
    """Those of shared/vtab/protocol.md, so that a YAML cannot drift with its code."""
    printed = {"linear": 0, "lora": 294_912, "moppa": 150_420} | {
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


@everywhere
def test_8_a_deep_copy_is_independent(method, backbone):
    model = fresh(method, backbone)
    model.train()(batch()[0])  # a forward may leave a penalty behind
    twin = copy.deepcopy(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_steps(twin)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in twin.state_dict().items())
    expected = logits_of(twin)
    merge(model)
    assert torch.equal(logits_of(twin), expected)


@pytest.mark.parametrize(("method", "backbone"), UNDEFINED)
def test_a_method_that_is_not_defined_on_a_backbone_says_so(method, backbone):
    with pytest.raises(UserError, match=type(bare(backbone)).__name__):
        fresh(method, backbone)


@pytest.mark.parametrize("method", [method for method in METHODS if "ViT" in facts_of(method)[1]])
def test_a_step_computes_what_the_reweighted_layers_say(method):
    """The quick way of a reweighted layer and its weight give the same output and the same gradients."""
    model = fresh(method)
    take_steps(model)
    found = []
    for way in ("quick", "weight"):
        for layer in model.modules():
            if way == "weight" and isinstance(layer, DirectLinear):
                layer.quick.clear()
        model.zero_grad()
        model.eval()
        loss = F.cross_entropy(model(batch()[0]), batch()[1])
        loss.backward()
        found.append([loss, *(parameter.grad for parameter in trainable_parameters(model).values())])
    for quick, weight in zip(*found, strict=True):
        torch.testing.assert_close(quick, weight, atol=1e-5, rtol=1e-3)


@everywhere
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("way", SKIPPABLE)
def test_9_leaving_out_what_nobody_reads_changes_neither_logits_nor_gradients(method, backbone, way, training):
    plain = with_drop_path(moved(fresh(method, backbone)), 0.4)
    lean = skip_unused(copy.deepcopy(plain), [way])
    images, labels = batch()
    found = []
    for model in (plain, lean):
        without_dropout(model.train(training))
        with seeded(0):
            logits = model(images)
        (F.cross_entropy(logits, labels) + (penalty(model, 0.0) if training else 0.0)).backward()
        found.append(
            {"logits": logits, **{name: parameter.grad for name, parameter in trainable_parameters(model).items()}}
        )
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-4, atol=1e-5, msg=name)


@everywhere
def test_10_whose_products_are_taken_changes_neither_logits_nor_gradients(method, backbone):
    model = moved(attach(as_chosen(bare(backbone)), method))
    images, labels = batch()
    found = []
    for way in ("torch", "onednn"):
        set_matmul_backend(way)
        model.zero_grad()
        logits = model.eval()(images)
        F.cross_entropy(logits, labels).backward()
        merged = logits_of(merge(copy.deepcopy(model)))
        found.append(
            {"logits": logits, "merged": merged, **{n: p.grad for n, p in trainable_parameters(model).items()}}
        )
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-4, atol=1e-5, msg=name)


class Waits(TorchDispatchMode):
    """Counts what on a GPU would make the host wait for it: values read back, and constants sent there."""

    OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "_unique2", "equal")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.OPERATIONS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_11_no_step_makes_the_host_wait(method, tmp_path):
    def waits(num_steps):
        model = skip_unused(
            fresh(method, "class token" if "ViT" in facts_of(method)[1] else "convnext"), ["last_block_tokens"]
        )
        images = np.zeros((6 * num_steps, 64, 64, 3), dtype=np.uint8)
        config = config_of("task=eurosat", f"method={method}", "train.epochs=1", "train.batch_size=6")
        with Waits() as waits:
            train(
                model,
                Split(images=images, labels=np.arange(len(images)) % 10, digest=""),
                recipe=instantiate(config, "train"),
                normalize=instantiate(config, "backbone").preprocess(model).normalize,
                seed=0,
                checkpoint=Checkpoint(path=tmp_path / f"{num_steps}.pt", epochs=1, code={}),
                logger=NoLogger(),
                watch=lambda *_: {},
            )
        return waits.count

    waits(1)  # sends what a process sends once
    assert 0 < waits(2) == waits(3)


def test_the_unread_is_left_out_where_there_is_such_a_thing():
    def given(method, backbone):
        return [block.given for block in lean_blocks(method, backbone, "last_block_tokens")]

    assert given("lora", "class token") == given("vpt_deep", "registers") == [slice(1)]
    for method, backbone in [("lora", "no prefix"), ("lora", "swin"), ("ssf", "convnext"), ("convpass", "registers")]:
        assert given(method, backbone) == []


@pytest.mark.parametrize(
    ("method", "is_lean"), [("lora", True), ("moppa", True), ("vpt_deep", True), ("ssf", True), ("convpass", False)]
)
def test_the_last_blocks_attention_asks_for_the_class_token_alone_where_it_is_timms(method, is_lean):
    model = skip_unused(fresh(method), ["last_block_tokens"])
    found = [module for module in model.modules() if isinstance(module, ClassTokenAttention)]
    assert len(found) == is_lean
    if is_lean:
        seen = []
        found[0].proj.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
        logits_of(model)
        assert seen == [1]


def test_dropped_images_are_left_out_where_no_loss_is_a_mean_over_all():
    def num_sparing(method, backbone):
        return sum(block.is_sparing for block in lean_blocks(method, backbone, "dropped_samples"))

    assert num_sparing("lora", "class token") == num_sparing("vpt_deep", "no prefix") == 3
    assert num_sparing("moppa", "class token") == num_sparing("lora", "swin") == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["none kept", "some kept", "all kept"])
def test_a_branch_sees_the_kept_images_alone(share, monkeypatch):
    model = skip_unused(with_drop_path(fresh("lora"), 0.5), ["dropped_samples"]).train()
    monkeypatch.setattr(
        Tensor, "bernoulli_", lambda draws, _: draws.copy_(torch.arange(len(draws)) < share * len(draws))
    )
    seen = []
    model.blocks[0].mlp.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    F.cross_entropy(model(batch()[0]), batch()[1]).backward()
    assert seen == [3 if share == 0.5 else 6]
    assert all(parameter.grad is not None for parameter in trainable_parameters(model).values())


def test_an_unknown_way_to_leave_something_out_is_named():
    with pytest.raises(UserError, match="it must be one of unread, dropped"):
        skip_unused(fresh("lora"), ["tokens"])


def lean_blocks(method, backbone, way):
    model = skip_unused(fresh(method, backbone), [way])
    return [module for module in model.modules() if isinstance(module, EfficientBlock)]


def with_drop_path(model, drop_prob):
    for module in model.modules():
        if isinstance(module, Block):
            module.drop_path1, module.drop_path2 = DropPath(drop_prob), DropPath(drop_prob)
    return model


def moved(model):
    """A model whose trainable tensors are no longer where they start, which for many is zero."""
    generator = generator_for(7, "moved")
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def without_dropout(model):
    """No two models would draw the same."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
