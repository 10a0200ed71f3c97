"""A linear probe on features that are computed once: the loop's own protocol and outcome, in a moment."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch

from moppa.data.cache import Split
from moppa.record.schema import read_record
from moppa.train import feature_cache
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
SPLIT = Split(images=IMAGES, labels=np.arange(10) % 5, digest="drawn")


def asked(tmp_path, method="linear", backbone="ViT", batch_size=4, **of):
    config = config_of(
        "task=eurosat", f"method={method}", *BACKBONES[backbone], "backbone.weights=random", "backbone.image_size=64"
    )
    made = instantiate(config, "backbone")
    model = made.build(num_classes=10, drop_path=0.3, generator=generator_for(0, "head"))
    instantiate(config, "method.attach", _partial_=True)(model, generator=generator_for(0, "method"))
    look = made.preprocess(model)
    return (
        model,
        look,
        feature_cache.use_cached_features(
            model, lambda split: SPLIT, look, kept_in=str(tmp_path), of=of or {"weights": "w"}, batch_size=batch_size
        ),
    )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_head_reads_what_the_whole_model_would_give_it(tmp_path, backbone):
    model, look, (probe, load, normalize) = asked(tmp_path, backbone=backbone)
    found = load("train800")
    assert found.images.dtype == np.float32
    model.eval()
    with torch.inference_mode():
        whole = model(look.normalize(torch.from_numpy(IMAGES)))
        torch.testing.assert_close(probe(normalize(torch.from_numpy(found.images))), whole)
    assert probe.get_classifier() is model.get_classifier()


def test_they_are_computed_once_for_what_decides_them(tmp_path, monkeypatch):
    counted = []
    compute = feature_cache.compute_features
    monkeypatch.setattr(feature_cache, "compute", lambda *words, **named: counted.append(1) or compute(*words, **named))
    for of in ({"weights": "a"}, {"weights": "a"}, {"weights": "b"}):
        _, _, (_, load, _) = asked(tmp_path, **of)
        first, again = load("train800"), load("train800")
        np.testing.assert_array_equal(first.images, again.images)
    assert len(counted) == 2
    model, look, _ = asked(tmp_path, **of)
    _, load, _ = feature_cache.use_cached_features(
        model, lambda split: replace(SPLIT, digest="other"), look, kept_in=str(tmp_path), of=of, batch_size=4
    )
    load("train800")
    assert len(counted) == 3


def test_a_method_that_trains_more_than_the_head_sees_images(tmp_path):
    model, _, (learner, load, _) = asked(tmp_path, method="lora")
    assert learner is model
    assert load("train800") is SPLIT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda content: b"none"])
def test_features_that_were_changed_are_named_and_not_used(tmp_path, damage):
    _, _, (_, load, _) = asked(tmp_path)
    load("train800")
    [file] = (tmp_path / "features").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=rf"{file.name} .*delete that file"):
        load("train800")


def test_a_file_says_what_it_is_of(tmp_path):
    _, _, (_, load, _) = asked(tmp_path, weights="w", timm="test_vit")
    load("train800")
    [file] = (tmp_path / "features").iterdir()
    with safetensors.safe_open(file, framework="np") as opened:
        of = json.loads(opened.metadata()["of"])
    assert {of["weights"], of["timm"], of["images"]} == {"w", "test_vit", "drawn"}
    assert set(of["versions"]) == {"torch", "timm"}


def test_a_cell_on_features_is_the_cell_of_the_loop(toy, tmp_path):
    written = {}
    for kept in ("true", "false"):
        config = config_of(
            *toy, "method=linear", "train.epochs=3", f"run.results={tmp_path / kept}", f"run.keep_features={kept}"
        )
        run_cell(config)
        [path] = (tmp_path / kept / "records").rglob("*.json")
        written[kept] = read_record(path)
    on, off = written["true"], written["false"]
    assert on["key"] == off["key"]
    assert abs(on["correct"] - off["correct"]) <= 2
    losses = [[epoch["loss"] for epoch in one["curve"]] for one in (on, off)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
