"""The preprocessing of a checkpoint."""

import torch

from moppa.backbone.preprocess import Preprocess
from tests.backbone.factories import backbone_from


def test_preprocessing_is_that_of_the_checkpoint():
    preprocess = {}
    for name in ("vit_b16_mae", "vit_b16_in21k", "dinov2_vits14"):
        backbone = backbone_from(f"backbone={name}", "backbone.weights=random")
        preprocess[name] = backbone.preprocess(backbone.create_model(drop_path=0.0))
    assert preprocess["vit_b16_in21k"].mean == preprocess["vit_b16_in21k"].std == (0.5, 0.5, 0.5)
    assert preprocess["dinov2_vits14"].mean == preprocess["vit_b16_mae"].mean == (0.485, 0.456, 0.406)
    assert {value.interpolation for value in preprocess.values()} == {"bicubic"}
    assert [value.pool for value in preprocess.values()] == ["avg", "token", "token"]


def test_normalize_returns_new_images():
    preprocess = Preprocess(size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), interpolation="bicubic", pool="token")
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    before = images.clone()
    normalized = preprocess.normalize(images)
    assert torch.equal(images, before)
    expected = (images[1, 2, 3].double() / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.6, 0.7])
    torch.testing.assert_close(normalized[1, :, 2, 3].double(), expected, atol=1e-6, rtol=0)
