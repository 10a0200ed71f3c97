"""Backbones: frozen pretrained models with a fresh head, at any image size."""

import pytest
import torch
from safetensors.torch import save_file

from moppa.backbone.model import compute_weights_sha256
from moppa.peft.blocks import find_blocks
from moppa.peft.collect import count_parameters
from moppa.utils.errors import UserError
from tests.backbone.factories import backbone_from, build
from tests.conftest import CONFIGS

BACKBONES = sorted(path.stem for path in (CONFIGS / "backbone").glob("*.yaml"))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_can_be_created_and_has_blocks_on_a_grid(name):
    backbone = backbone_from(f"backbone={name}", "backbone.weights=random")
    with torch.device("meta"):
        model = backbone.create_model(drop_path=0.1)
        blocks = find_blocks(model)
    assert len(blocks) >= 6
    assert all(min(block.grid) >= 1 for block in blocks)
    assert backbone.preprocess(model).size == backbone.image_size
    assert backbone.preprocess(model).pool in {"token", "avg"}


def test_only_the_head_is_trainable():
    model = build("backbone=test_vit")
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable == ["head.weight", "head.bias"]


def test_position_embeddings_are_resampled_to_the_image_size(checkpoint, tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(checkpoint, file)
    model = build("backbone=test_vit", "backbone.image_size=64", f"backbone.weights={file}")
    assert model.pos_embed.shape == (1, 1 + 4 * 4, 64)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


def test_random_weights_do_not_depend_on_the_seed_but_the_head_does():
    first, second = (build("backbone=test_vit", seed=seed) for seed in (0, 1))
    assert torch.equal(first.blocks[0].attn.qkv.weight, second.blocks[0].attn.qkv.weight)
    assert not torch.equal(first.head.weight, second.head.weight)
    hashes = [compute_weights_sha256(backbone_from("backbone=test_vit")) for _ in range(2)]
    assert hashes[0] == hashes[1]


def test_models_of_one_process_do_not_share_tensors():
    first, second = build("backbone=test_vit"), build("backbone=test_vit")
    with torch.no_grad():
        first.norm.weight.fill_(7)
    assert not second.norm.weight.eq(7).any()


def test_the_hash_of_a_file_is_its_sha256(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"abc")
    sha256 = compute_weights_sha256(backbone_from("backbone=test_vit", f"backbone.weights={file}"))
    assert sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_errors_name_the_setting_of_the_backbone(tmp_path):
    for override, message in {
        "backbone.image_size=0": r"^backbone\.image_size=0: it must be an integer of at least 1",
        "backbone.image_size=40": r"^backbone\.image_size=40 is not a multiple of the 16 px patch",
        "backbone.timm=vit_huge_9": r"^backbone\.timm='vit_huge_9' is not a model of timm",
        "backbone.pool=best": r"^backbone\.pool='best' does not go with test_vit",
        "backbone.weights=none.pth": r"^backbone\.weights=none\.pth: there is no such file",
    }.items():
        with pytest.raises(UserError, match=message):
            build("backbone=test_vit", override)
    (tmp_path / "w.txt").write_text("weights")
    with pytest.raises(UserError, match=r"^backbone\.weights=.*w\.txt: the suffix must be"):
        build("backbone=test_vit", f"backbone.weights={tmp_path / 'w.txt'}")


def test_the_real_dinov2_weights_fit(shared):
    file = shared / "weights" / "dinov2_vits14_fp16.safetensors"
    model = build("backbone=dinov2_vits14", "backbone.image_size=112", f"backbone.weights={file}")
    assert model.pos_embed.shape == (1, 1 + 8 * 8, 384)
    assert count_parameters(model) == {"trainable_params": 0, "head_params": 3850}
