"""Which computation is skipped in which model, and that an unknown timm is left alone."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moppa.backbone import efficient_blocks
from moppa.backbone.efficient_blocks import (
    SKIPPABLE,
    ClassTokenAttention,
    EfficientBlock,
    OneCopyAttention,
    is_timm_known,
    skip_unused,
)
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import UserError
from tests.models import batch, logits_of, model_with, perturbed, with_drop_path


def modules_of(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def efficient_blocks_of(method, backbone, optimization):
    return modules_of(skip_unused(model_with(method, backbone), [optimization]), EfficientBlock)


def test_the_last_block_returns_the_class_token_if_only_that_is_read():
    def output_tokens(method, backbone):
        return [block.output_tokens for block in efficient_blocks_of(method, backbone, "last_block_tokens")]

    assert output_tokens("lora", "class token") == output_tokens("vpt_deep", "registers") == [slice(1)]
    for method, backbone in [
        ("lora", "no prefix"),
        ("lora", "swin"),
        ("ssf", "convnext"),
        ("convpass", "registers"),
        ("lst", "registers"),
    ]:
        assert output_tokens(method, backbone) == []


@pytest.mark.parametrize(
    ("method", "is_efficient"),
    [("lora", True), ("moppa", True), ("vpt_deep", True), ("ssf", True), ("convpass", False)],
)
def test_the_last_attention_has_one_query_if_it_is_timms(method, is_efficient):
    model = skip_unused(model_with(method), ["last_block_tokens"])
    attentions = modules_of(model, ClassTokenAttention)
    assert len(attentions) == is_efficient
    if is_efficient:
        num_tokens = []
        attentions[0].proj.register_forward_hook(lambda _, inputs, __: num_tokens.append(inputs[0].shape[1]))
        logits_of(model)
        assert num_tokens == [1]


def test_dropped_samples_are_skipped_in_blocks_without_an_auxiliary_loss():
    def num_skipping(method, backbone):
        return sum(block.skips_dropped for block in efficient_blocks_of(method, backbone, "dropped_samples"))

    assert num_skipping("lora", "class token") == 3  # all blocks
    assert num_skipping("vpt_deep", "no prefix") == 2
    assert num_skipping("moppa", "class token") == num_skipping("lora", "swin") == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["none kept", "some kept", "all kept"])
def test_a_branch_computes_the_kept_images_only(share, monkeypatch):
    model = skip_unused(with_drop_path(model_with("lora"), 0.5), ["dropped_samples"]).train()
    monkeypatch.setattr(
        Tensor, "bernoulli_", lambda draws, _: draws.copy_(torch.arange(len(draws)) < share * len(draws))
    )
    num_images = []
    model.blocks[0].mlp.register_forward_hook(lambda _, inputs, __: num_images.append(len(inputs[0])))
    F.cross_entropy(model(batch()[0]), batch()[1]).backward()
    assert num_images == [3 if share == 0.5 else 6]
    assert all(parameter.grad is not None for parameter in trainable_parameters(model).values())


def test_dropped_samples_are_skipped_under_autocast():
    model = skip_unused(with_drop_path(model_with("lora"), 0.5), ["dropped_samples"]).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(batch()[0]).float(), batch()[1])
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in trainable_parameters(model).values())


class Stacks(TorchDispatchMode):
    """Counts the tensors that are concatenated or stacked."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket in (torch.ops.aten.cat, torch.ops.aten.stack)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["lora", "moppa", "prefix", "vpt_deep"])
def test_the_gradients_of_q_k_and_v_have_the_same_bits_and_are_not_stacked(method):
    counts, gradients = [], []
    for optimizations in ([], ["gradient_copies"]):
        model = skip_unused(perturbed(model_with(method)), optimizations).eval()  # without dropout
        assert len(modules_of(model, OneCopyAttention)) == 3 * len(optimizations)
        loss = F.cross_entropy(model(batch()[0]), batch()[1])
        with Stacks() as stacks:
            loss.backward()
        counts.append(stacks.count)
        gradients.append([parameter.grad for parameter in trainable_parameters(model).values()])
    assert counts[0] - counts[1] == 3
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_an_unknown_optimization_is_named():
    with pytest.raises(UserError, match=r"run\.skip_unused='tokens': it must be one of last_block_tokens, dropped"):
        skip_unused(model_with("lora"), ["tokens"])


@pytest.fixture
def uncached():
    """Reads the installed timm anew, before and after the test."""
    is_timm_known.cache_clear()
    yield
    is_timm_known.cache_clear()


@pytest.mark.usefixtures("uncached")
def test_an_unknown_timm_is_left_alone_with_one_warning(monkeypatch, capsys):
    monkeypatch.setitem(efficient_blocks.SOURCES, Block.forward, ("0" * 64,))
    for _ in range(2):
        model = skip_unused(model_with("lora"), SKIPPABLE)
        assert not modules_of(model, (EfficientBlock, ClassTokenAttention, OneCopyAttention))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("run.skip_unused has no effect: timm ")
    skip_unused(model_with("lora"), [])
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("uncached")
def test_a_timm_without_source_is_unknown(monkeypatch, capsys):
    def no_source(function):
        raise OSError("could not get source code")

    monkeypatch.setattr(efficient_blocks.inspect, "getsource", no_source)
    assert not is_timm_known()
    assert "timm" in capsys.readouterr().err


@pytest.mark.usefixtures("uncached")
def test_the_installed_timm_is_known(capsys):
    assert is_timm_known()
    assert capsys.readouterr().err == ""
