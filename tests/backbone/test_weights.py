"""Checkpoints of all formats are loaded completely, or the error names what does not fit."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from moppa.utils.errors import UserError
from tests.backbone.factories import build

AT_160_PX = ("backbone=test_vit", "backbone.image_size=160")


def write(state, path):
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_local_weights_are_loaded_with_a_fresh_head(checkpoint, tmp_path, suffix):
    file = write(checkpoint, tmp_path / f"w.{suffix}")
    loaded = build(*AT_160_PX, f"backbone.weights={file}").state_dict()
    assert all(torch.equal(loaded[name], checkpoint[name]) for name in checkpoint if not name.startswith("head"))
    assert loaded["head.weight"].shape == (10, 64)


def test_half_precision_weights_are_loaded_in_single_precision(checkpoint, tmp_path):
    file = write({name: tensor.half() for name, tensor in checkpoint.items()}, tmp_path / "w.safetensors")
    model = build(*AT_160_PX, f"backbone.weights={file}")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_hub_weights_are_downloaded_by_timms_name(checkpoint, tmp_path, monkeypatch):
    downloads = []

    def download(repository, file):
        downloads.append((repository, file))
        return str(write(checkpoint, tmp_path / "model.safetensors"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("moppa.backbone.weights_file.check_reachable", lambda url: None)
    model = build(*AT_160_PX, "backbone.weights=null")
    assert downloads == [("timm/test_vit.r160_in1k", "model.safetensors")]
    assert torch.equal(model.norm.weight, checkpoint["norm.weight"])


@pytest.mark.slow  # builds a ViT-B three times and writes it twice
def test_mae_weights_leave_the_last_norm_at_the_identity(tmp_path):
    """The checkpoint's own last norm is ignored on purpose; any other missing tensor is an error."""
    state = timm.create_model("vit_base_patch16_224.mae", num_classes=0).state_dict()
    assert "norm.weight" in state
    file = write(state, tmp_path / "mae.safetensors")
    model = build("backbone=vit_b16_mae", f"backbone.weights={file}")
    assert model.global_pool == "avg"
    assert torch.equal(model.fc_norm.weight, torch.ones(768))
    assert torch.equal(model.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    del state["blocks.0.attn.qkv.weight"]
    with pytest.raises(UserError, match=r"^backbone\.weights=.*missing: blocks\.0\.attn\.qkv\.weight"):
        build("backbone=vit_b16_mae", f"backbone.weights={write(state, file)}")


def test_npz_files_of_the_jax_release_are_loaded(tmp_path):
    """Uses the layout of `ViT-B_16.npz` with random values."""
    random = np.random.default_rng(0)
    dim, num_heads, hidden_dim = 64, 2, 192

    def draw(*shape):
        return random.normal(size=shape).astype(np.float32)

    arrays = {
        "embedding/kernel": draw(16, 16, 3, dim),
        "embedding/bias": draw(dim),
        "cls": draw(1, 1, dim),
        "Transformer/posembed_input/pos_embedding": draw(1, 101, dim),
        "Transformer/encoder_norm/scale": draw(dim),
        "Transformer/encoder_norm/bias": draw(dim),
    }
    for index in range(6):
        block = f"Transformer/encoderblock_{index}/"
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            arrays |= {f"{block}{norm}/scale": draw(dim), f"{block}{norm}/bias": draw(dim)}
        for name in ("query", "key", "value"):
            arrays |= {
                f"{attention}{name}/kernel": draw(dim, num_heads, 32),
                f"{attention}{name}/bias": draw(num_heads, 32),
            }
        arrays |= {f"{attention}out/kernel": draw(num_heads, 32, dim), f"{attention}out/bias": draw(dim)}
        for name, shape in {"Dense_0": (dim, hidden_dim), "Dense_1": (hidden_dim, dim)}.items():
            arrays |= {
                f"{block}MlpBlock_3/{name}/kernel": draw(*shape),
                f"{block}MlpBlock_3/{name}/bias": draw(shape[1]),
            }
    file = tmp_path / "ViT.npz"
    np.savez(file, **arrays)
    model = build(*AT_160_PX, f"backbone.weights={file}")
    np.testing.assert_array_equal(model.norm.weight.numpy(), arrays["Transformer/encoder_norm/scale"])
    np.testing.assert_array_equal(
        model.blocks[3].mlp.fc1.weight.numpy(), arrays["Transformer/encoderblock_3/MlpBlock_3/Dense_0/kernel"].T
    )
