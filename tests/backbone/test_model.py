import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from moppa.backbone.model import Preprocess, compute_weights_sha256
from moppa.peft.blocks import find_blocks
from moppa.peft.collect import count_parameters
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, config_of


def backbone_of(*overrides):
    return instantiate(config_of("task=eurosat", *overrides), "backbone")


def build(*overrides, seed=0):
    return backbone_of(*overrides).build(num_classes=10, drop_path=0.0, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def checkpoint():
    """Weights of timm's test_vit that are not those of any seed of ours."""
    state = timm.create_model("test_vit.r160_in1k", num_classes=7).state_dict()
    return {name: tensor + 0.5 for name, tensor in state.items()}


def write(state, path):
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_local_weights_are_loaded_and_the_head_is_ours(checkpoint, tmp_path, suffix):
    file = write(checkpoint, tmp_path / f"w.{suffix}")
    model = build("backbone=test_vit", "backbone.image_size=160", f"backbone.weights={file}")
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], checkpoint[name]) for name in checkpoint if not name.startswith("head"))
    assert loaded["head.weight"].shape == (10, 64)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
        "head.weight",
        "head.bias",
    ]


def test_position_embeddings_are_resampled_to_the_asked_size(checkpoint, tmp_path):
    file = write(checkpoint, tmp_path / "w.pth")
    model = build("backbone=test_vit", "backbone.image_size=64", f"backbone.weights={file}")
    assert model.pos_embed.shape == (1, 1 + 4 * 4, 64)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


def test_half_precision_weights_become_single(checkpoint, tmp_path):
    file = write({name: tensor.half() for name, tensor in checkpoint.items()}, tmp_path / "w.safetensors")
    model = build("backbone=test_vit", "backbone.image_size=160", f"backbone.weights={file}")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_jax_npz_is_loaded(tmp_path):
    """The layout of `ViT-B_16.npz`, written from its public description, small."""
    random = np.random.default_rng(0)
    dim, heads, hidden = 64, 2, 192
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    arrays = {
        "embedding/kernel": draw(16, 16, 3, dim),
        "embedding/bias": draw(dim),
        "cls": draw(1, 1, dim),
        "Transformer/posembed_input/pos_embedding": draw(1, 101, dim),
        "Transformer/encoder_norm/scale": draw(dim),
        "Transformer/encoder_norm/bias": draw(dim),
    }
    for index in range(6):
        block, attention = (
            f"Transformer/encoderblock_{index}/",
            f"Transformer/encoderblock_{index}/MultiHeadDotProductAttention_1/",
        )
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            arrays |= {f"{block}{norm}/scale": draw(dim), f"{block}{norm}/bias": draw(dim)}
        for part in ("query", "key", "value"):
            arrays |= {f"{attention}{part}/kernel": draw(dim, heads, 32), f"{attention}{part}/bias": draw(heads, 32)}
        arrays |= {f"{attention}out/kernel": draw(heads, 32, dim), f"{attention}out/bias": draw(dim)}
        arrays |= {
            f"{block}MlpBlock_3/Dense_0/kernel": draw(dim, hidden),
            f"{block}MlpBlock_3/Dense_0/bias": draw(hidden),
        }
        arrays |= {f"{block}MlpBlock_3/Dense_1/kernel": draw(hidden, dim), f"{block}MlpBlock_3/Dense_1/bias": draw(dim)}
    file = tmp_path / "ViT.npz"
    np.savez(file, **arrays)
    model = build("backbone=test_vit", "backbone.image_size=160", f"backbone.weights={file}")
    np.testing.assert_array_equal(model.norm.weight.numpy(), arrays["Transformer/encoder_norm/scale"])
    np.testing.assert_array_equal(
        model.blocks[3].mlp.fc1.weight.numpy(), arrays["Transformer/encoderblock_3/MlpBlock_3/Dense_0/kernel"].T
    )


def test_mae_keeps_an_identity_norm_after_the_mean_of_patches(tmp_path):
    """Its checkpoint's own norm is left out on purpose; anything else that is missing is an error."""
    state = timm.create_model("vit_base_patch16_224.mae", num_classes=0).state_dict()
    assert "norm.weight" in state
    file = write(state, tmp_path / "mae.safetensors")
    model = build("backbone=vit_b16_mae", f"backbone.weights={file}")
    assert model.global_pool == "avg"
    assert torch.equal(model.fc_norm.weight, torch.ones(768))
    assert torch.equal(model.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    del state["blocks.0.attn.qkv.weight"]
    with pytest.raises(UserError, match=r"missing: blocks\.0\.attn\.qkv\.weight"):
        build("backbone=vit_b16_mae", f"backbone.weights={write(state, file)}")


def test_preprocessing_is_the_checkpoints_own():
    facts = {}
    for name in ("vit_b16_mae", "vit_b16_in21k", "dinov2_vits14"):
        backbone = backbone_of(f"backbone={name}", "backbone.weights=random")
        facts[name] = backbone.preprocess(backbone.bare(drop_path=0.0))
    assert facts["vit_b16_in21k"].mean == facts["vit_b16_in21k"].std == (0.5, 0.5, 0.5)
    assert facts["dinov2_vits14"].mean == facts["vit_b16_mae"].mean == (0.485, 0.456, 0.406)
    assert {one.interpolation for one in facts.values()} == {"bicubic"}
    assert [one.pool for one in facts.values()] == ["avg", "token", "token"]


def test_normalizing_leaves_the_cached_images_as_they_were():
    preprocess = Preprocess(size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), interpolation="bicubic", pool="token")
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    before = images.clone()
    normal = preprocess.normalize(images)
    assert torch.equal(images, before)
    expected = (images[1, 2, 3].double() / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.6, 0.7])
    torch.testing.assert_close(normal[1, :, 2, 3].double(), expected, atol=1e-6, rtol=0)


def test_random_weights_are_the_same_for_every_seed_and_the_heads_are_not():
    first, second = (build("backbone=test_vit", seed=seed) for seed in (0, 1))
    assert torch.equal(first.blocks[0].attn.qkv.weight, second.blocks[0].attn.qkv.weight)
    assert not torch.equal(first.head.weight, second.head.weight)
    assert compute_weights_sha256(backbone_of("backbone=test_vit")) == compute_weights_sha256(
        backbone_of("backbone=test_vit")
    )


def test_the_digest_of_a_file_is_sha256sums(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"abc")
    digest = compute_weights_sha256(backbone_of("backbone=test_vit", f"backbone.weights={file}"))
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_weights_from_the_hub_are_asked_for_by_timms_own_name(checkpoint, tmp_path, monkeypatch):
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return str(write(checkpoint, tmp_path / "model.safetensors"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    model = build("backbone=test_vit", "backbone.image_size=160", "backbone.weights=null")
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors")]
    assert torch.equal(model.norm.weight, checkpoint["norm.weight"])


def test_the_real_weights_fit(shared):
    file = shared / "weights" / "dinov2_vits14_fp16.safetensors"
    model = build("backbone=dinov2_vits14", "backbone.image_size=112", f"backbone.weights={file}")
    assert model.pos_embed.shape == (1, 1 + 8 * 8, 384)
    assert count_parameters(model) == {"trainable_params": 0, "head_params": 3850}


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "backbone").glob("*.yaml")))
def test_every_backbone_is_built_and_says_where_its_blocks_are(name):
    backbone = backbone_of(f"backbone={name}", "backbone.weights=random")
    with torch.device("meta"):
        model = backbone.bare(drop_path=0.1)
        places = find_blocks(model)
    assert len(places) >= 6
    assert all(min(place.grid) >= 1 for place in places)
    assert backbone.preprocess(model).size == backbone.image_size
    assert backbone.preprocess(model).pool in {"token", "avg"}
