"""A linear probe on cached features gives what the whole model gives."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch

from moppa.data.split import Split
from moppa.data.task_data import TaskData
from moppa.peft.method import attach_method
from moppa.record.schema import read_record
from moppa.train.feature_cache import FeatureCache, inputs_of
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.seeds import generator_for
from run import run_cell
from tests.conftest import config_of

BACKBONES = {
    "ViT": ["backbone=test_vit"],
    "Swin": ["backbone=swin_b_in22k", "backbone.timm=swin_tiny_patch4_window7_224"],
    "ConvNeXt": ["backbone=convnext_b_in22k", "backbone.timm=test_convnext"],
}
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
SPLIT = Split(images=IMAGES, labels=np.arange(10) % 5, digest="generated")


class OneSplit(TaskData):
    """Data with one split under every name."""

    def load(self, split):
        return self.split


def data_of(split=SPLIT):
    data = OneSplit.__new__(OneSplit)
    object.__setattr__(data, "split", split)
    return data


def build(method="linear", backbone="ViT"):
    """Returns a model with a method, and its preprocessing."""
    config = config_of(
        "task=eurosat", f"method={method}", *BACKBONES[backbone], "backbone.weights=random", "backbone.image_size=64"
    )
    backbone = instantiate(config, "backbone")
    model = backbone.build(num_classes=10, drop_path=0.3, generator=generator_for(0, "head"))
    method = instantiate(config, "method.attach", _partial_=True)
    attach_method(model, method, generator=generator_for(0, "method"), examples=list)
    return model, backbone.preprocess(model)


def cache_in(folder, **backbone):
    return FeatureCache(folder=folder, backbone=backbone or {"weights": "w"}, batch_size=4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_head_on_features_gives_the_logits_of_the_whole_model(tmp_path, backbone):
    model, preprocess = build(backbone=backbone)
    inputs = inputs_of(model, data_of(), preprocess, cache_in(tmp_path))
    features = inputs.load("train800").images
    assert features.dtype == np.float32
    model.eval()
    with torch.inference_mode():
        logits = model(preprocess.normalize(torch.from_numpy(IMAGES)))
        torch.testing.assert_close(inputs.model(inputs.normalize(torch.from_numpy(features))), logits)
    assert inputs.model.get_classifier() is model.get_classifier()


def test_features_are_computed_once_for_everything_that_decides_them(tmp_path, monkeypatch):
    calls, compute = [], FeatureCache.compute
    monkeypatch.setattr(FeatureCache, "compute", lambda self, *args: calls.append(1) or compute(self, *args))
    model, preprocess = build()
    for weights in ("a", "a", "b"):
        inputs = inputs_of(model, data_of(), preprocess, cache_in(tmp_path, weights=weights))
        np.testing.assert_array_equal(inputs.load("train800").images, inputs.load("train800").images)
    assert len(calls) == 2
    other = data_of(replace(SPLIT, digest="other"))
    inputs_of(model, other, preprocess, cache_in(tmp_path, weights="b")).load("train800")
    assert len(calls) == 3


def test_a_method_that_trains_more_than_the_head_gets_images(tmp_path):
    model, preprocess = build(method="lora")
    inputs = inputs_of(model, data_of(), preprocess, cache_in(tmp_path))
    assert inputs.model is model
    assert inputs.load("train800") is SPLIT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda content: b"none"])
def test_damaged_features_are_named_and_not_used(tmp_path, damage):
    inputs = inputs_of(*build_inputs(tmp_path))
    inputs.load("train800")
    [file] = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=rf"{file.name} .*delete that file"):
        inputs.load("train800")


def test_a_file_describes_its_features(tmp_path):
    inputs_of(*build_inputs(tmp_path, weights="w", timm="test_vit")).load("train800")
    [file] = tmp_path.iterdir()
    with safetensors.safe_open(file, framework="np") as opened:
        description = json.loads(opened.metadata()["of"])
    assert {description["weights"], description["timm"], description["images"]} == {"w", "test_vit", "generated"}
    assert set(description["versions"]) == {"torch", "timm"}


def build_inputs(folder, **backbone):
    """Returns the arguments of `inputs_of` for a linear probe."""
    model, preprocess = build()
    return model, data_of(), preprocess, cache_in(folder, **backbone)


def test_a_head_that_is_trained_in_steps_on_cached_features_is_the_one_without(toy, tmp_path):
    records = {}
    for keep in ("true", "false"):
        overrides = ["method=linear", "~method.fit", "train.epochs=3", f"run.results={tmp_path / keep}"]
        overrides.append(f"run.keep_features={keep}")
        run_cell(config_of(*toy, *overrides))
        [path] = (tmp_path / keep / "records").rglob("*.json")
        records[keep] = read_record(path)
    on, off = records["true"], records["false"]
    assert on["key"] == off["key"]
    assert abs(on["correct"] - off["correct"]) <= 2
    losses = [[epoch["loss"] for epoch in record["curve"]] for record in (on, off)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
