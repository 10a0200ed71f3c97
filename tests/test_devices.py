"""No method mixes devices. A GPU is not needed: the model is on torch's meta device, and what a method draws is not."""

import contextlib

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import moppa
from moppa.backbone.efficient_blocks import skip_unused
from moppa.peft import sensitivity, trajectory
from moppa.peft.collect import penalty, trainable_parameters
from moppa.peft.inject import merge
from moppa.peft.method import attach_method
from moppa.utils.seeds import generator_for
from tests.conftest import METHODS, QUICK_METHODS, mostly_slow
from tests.models import frozen_model, method_from_yaml


class GeneratorsOfTheSameDevice(TorchFunctionMode):
    """Raises if a generator fills a tensor of another device, as torch does on CUDA but not on meta."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        filled = func(*args, **(kwargs or {}))
        generator = (kwargs or {}).get("generator")
        if generator is not None and isinstance(filled, Tensor) and filled.device != generator.device:
            raise RuntimeError(f"Expected a '{filled.device}' device type for generator but found '{generator.device}'")
        return filled


def on_meta_device(method):
    """Returns a model on the meta device to which a method was attached there, and a batch."""
    model = frozen_model().to("meta")
    images, labels = torch.empty(6, 3, 64, 64, device="meta"), torch.empty(6, dtype=torch.long, device="meta")
    attach_method(
        model,
        method_from_yaml(method),
        generator=generator_for(0, "method"),
        examples=lambda: [(images, labels)],
    )
    return skip_unused(model, ["last_block_tokens", "gradient_copies"]), images, labels


def trunc_normal_without_values(tensor, *, generator=None, **_):
    return tensor.normal_(generator=generator)


@pytest.fixture
def meta_device(monkeypatch):
    """Replaces what torch's meta device lacks.

    It has no autocast, it does not draw from a truncated normal distribution, and it has no values for SPT and RDP LoRA
    to compare: every tenth weight of each tensor is taken as sensitive, and the first blocks as pivots.
    """
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "autocast", lambda device, **_: contextlib.nullcontext())
    monkeypatch.setattr(nn.init, "trunc_normal_", torch.no_grad()(trunc_normal_without_values))

    def select(scores, pieces, budget):
        assert {score.device.type for score in scores} == {"meta"}
        return [torch.arange(0, len(score), 10, device=score.device) for score in scores]

    monkeypatch.setattr(sensitivity, "select_sensitive", select)
    monkeypatch.setattr(trajectory, "pivots", lambda _, count: list(range(1, count + 1)))


@pytest.mark.usefixtures("meta_device")
@pytest.mark.parametrize("method", mostly_slow(METHODS, QUICK_METHODS | {"gps", "nola", "spt_lora"}))
def test_a_method_attached_to_a_model_on_another_device_trains_and_evaluates_there(method):
    with GeneratorsOfTheSameDevice():
        model, images, labels = on_meta_device(method)
        assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}
        loss = F.cross_entropy(model.train()(images), labels) + penalty(model, 0.1)
        loss.backward()
        gradients = [parameter.grad for parameter in trainable_parameters(model).values()]
        assert {gradient.device.type for gradient in gradients if gradient is not None} == {"meta"}
        assert model.eval()(images).shape == merge(model)(images).shape == (6, 10)


@pytest.mark.usefixtures("meta_device")
@pytest.mark.parametrize("draw", [nn.init.kaiming_uniform_, nn.init.trunc_normal_, torch.Tensor.uniform_])
def test_the_check_of_generators_finds_one_of_another_device(draw):
    with GeneratorsOfTheSameDevice(), pytest.raises(RuntimeError, match="'meta' device type for generator"):
        getattr(nn.init, draw.__name__, draw)(torch.empty(3, 3, device="meta"), generator=generator_for(0))


def test_the_units_of_moppa_are_on_the_device_of_the_model():
    model = timm.create_model("test_vit", img_size=64).to("meta")
    moppa.attach(model)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
