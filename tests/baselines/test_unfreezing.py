"""Full fine-tuning, BitFit and LN-Tune: which tensors are trained."""

import pytest
import timm

from baselines import bitfit, full, lntune
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import UserError
from tests.baselines.families import FAMILIES, VIT, stock_model


def is_norm(name, family):
    parts = name.split(".")
    if family == "ConvNeXt" and (parts[:2] == ["stem", "1"] or parts[-3:-1] == ["downsample", "0"]):
        return True
    return parts[-2].startswith("norm") or parts[-2] == "fc_norm"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_method_trains_the_tensors_that_its_paper_names(family):
    model = stock_model(FAMILIES[family])
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    is_head = {name: id(parameter) in head for name, parameter in model.named_parameters()}
    expected = {
        full: set(is_head),
        bitfit: {name for name in is_head if is_head[name] or name.split(".")[-1] == "bias"},
        lntune: {name for name in is_head if is_head[name] or ("." in name and is_norm(name, family))},
    }
    for method, names in expected.items():
        model = stock_model(FAMILIES[family])
        method.attach(model)
        assert set(trainable_parameters(model)) == names
    assert len(is_head) > len(expected[bitfit]) > len(expected[lntune]) > 2


@pytest.mark.parametrize("method", [bitfit, lntune])
def test_a_frozen_head_weight_stays_frozen(method):
    model = stock_model(VIT)
    model.head.weight.requires_grad_(False)
    method.attach(model)
    assert not model.head.weight.requires_grad


def test_a_model_without_layer_norms_is_named():
    with pytest.raises(UserError, match=r"LayerNorms.*ResNet has none"):
        lntune.attach(timm.create_model("test_resnet"))
