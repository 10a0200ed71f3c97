"""In bf16 the frozen weights and the activations are bfloat16; trained tensors stay float32."""

import copy

import pytest
import torch
import torch.nn.functional as F

from moppa.backbone.precision import to_precision
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.device import forward_context
from moppa.utils.gpu import dtype_name, precision_name
from tests.conftest import METHODS, QUICK_METHODS, config_of, mostly_slow
from tests.models import batch, model_with, perturbed
from tests.test_laws import is_defined

CPU = torch.device("cpu")
TRAINS_THE_CLASS_TOKEN = {"full", "spt_adapter", "spt_lora"}  # in float32, and torch joins the other tokens in float32


def built(method):
    return perturbed(model_with(method, "class token" if is_defined(method, "class token") else "convnext"))


@pytest.mark.parametrize("method", mostly_slow(METHODS, QUICK_METHODS))
def test_a_step_in_bf16_is_the_step_in_float32_up_to_rounding(method):
    model = built(method)
    low = to_precision(copy.deepcopy(model), "bf16")
    trained = trainable_parameters(low)
    frozen = [parameter for parameter in low.parameters() if not parameter.requires_grad]
    assert {parameter.dtype for parameter in frozen} <= {torch.bfloat16}
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    tokens = []
    for block in getattr(low, "blocks", []):
        block.register_forward_hook(lambda _, __, output: tokens.append(output.dtype))
    gradients = {}
    for name, part in {"float32": model, "bf16": low}.items():
        images, labels = batch()
        with forward_context(CPU, name):
            logits = part.eval()(images)
            loss = F.cross_entropy(logits, labels)
        loss.backward()
        gradients[name] = torch.cat([parameter.grad.flatten() for parameter in trainable_parameters(part).values()])
    assert set(tokens) <= {torch.float32 if method in TRAINS_THE_CLASS_TOKEN else torch.bfloat16}
    similarity = F.cosine_similarity(gradients["float32"], gradients["bf16"], dim=0)
    assert similarity > 0.98, float(similarity)
    with forward_context(CPU, "bf16"), torch.no_grad():
        before = low(batch()[0]).float()
        merged = merge(low)(batch()[0]).float()
    assert F.cosine_similarity(before.flatten(), merged.flatten(), dim=0) > 0.99


def test_the_dtype_of_a_record_follows_from_device_and_precision():
    assert dtype_name("cpu", "auto") == dtype_name("cuda", "float32") == "float32"
    assert dtype_name("cuda", "auto") == dtype_name("cpu", "bf16-mixed") == "bfloat16"
    assert dtype_name("cuda", "bf16") == dtype_name("cpu", "bf16") == "bfloat16-backbone"
    assert precision_name("auto", "cuda") == "bf16-mixed"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "linear"])
def test_a_cell_in_bf16_has_a_key_and_a_dtype_of_its_own(method, toy):
    from moppa.record.schema import read_record
    from run import run_cell

    records = [
        read_record(run_cell(config_of(*toy, f"method={method}", f"run.precision={precision}")).record)
        for precision in ("auto", "bf16")
    ]
    assert [record["dtype"] for record in records] == ["float32", "bfloat16-backbone"]
    assert records[0]["key"] != records[1]["key"]
    losses = [record["curve"][-1]["loss"] for record in records]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
