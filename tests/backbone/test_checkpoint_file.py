"""A network is found in a checkpoint file under any wrapper and prefix, and what is in the way is named."""

import argparse
import collections
import math
import os
import socket
import time

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from moppa.backbone import weights_file
from moppa.backbone.weights import load_weights
from moppa.utils.errors import SettingError, UserError
from moppa.utils.network import TIMEOUTS
from tests.backbone.factories import build


@pytest.fixture(scope="module")
def state():
    """The tensors of a test_vit with a head."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return timm.create_model("test_vit", num_classes=7).state_dict()


def load(state, folder, name="w.pth", untrained=(), unused=()):
    """Returns a test_vit with the weights of a file."""
    torch.save(state, folder / name)
    model = timm.create_model("test_vit", num_classes=0)
    load_weights(model, folder / name, untrained=untrained, unused=unused)
    return model


def with_prefix(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "backbone.", "model.", "vit.", "teacher.backbone."]
WRAPPERS = ["", "model", "state_dict", "teacher", "target_encoder", "state.model"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_removed(prefix, state, tmp_path):
    model = load(with_prefix(state, prefix), tmp_path)
    assert torch.equal(model.blocks[5].mlp.fc2.weight, state["blocks.5.mlp.fc2.weight"])


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_with_what_training_code_adds_is_read(wrapper, state, tmp_path):
    parameters = list(timm.create_model("test_vit").parameters())
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    payload = with_prefix(state, "module.")
    for key in reversed(wrapper.split(".")) if wrapper else ():
        payload = {key: payload}
    payload |= {
        "epoch": 3,
        "args": argparse.Namespace(lr=1.0),
        "best": np.float64(0.5),
        "when": collections.Counter("a"),
    }
    payload |= {"optimizer": optimizer.state_dict(), "scaler": {"scale": 1.0}}
    model = load(payload, tmp_path, "w.pth.tar")
    assert torch.equal(model.norm.weight, state["norm.weight"])


def test_several_networks_are_named_and_none_is_chosen(state, tmp_path):
    for payload, names in [
        ({"state_dict": state, "state_dict_ema": state}, ["state_dict.*", "state_dict_ema.*"]),
        (with_prefix(state, "base_encoder.") | with_prefix(state, "momentum_encoder."), ["momentum_encoder.*"]),
        ({"student": with_prefix(state, "module.backbone."), "teacher": state}, ["student.module.backbone.*"]),
    ]:
        with pytest.raises(SettingError, match="holds several networks") as error:
            load(payload, tmp_path)
        assert all(name in str(error.value) for name in names)


def test_any_tensor_can_be_declared_unused_and_the_error_shows_how(state, tmp_path):
    extra = {"scale": torch.zeros(1), "decoder.0.weight": torch.zeros(3), "logit_scale": torch.zeros(())}
    with pytest.raises(SettingError, match=r"backbone\.unused=\[scale,decoder,logit_scale\]$"):
        load(state | extra, tmp_path)
    load(state | extra, tmp_path, unused=["decoder", "logit_scale", "scale"])
    less = {name: tensor for name, tensor in state.items() if name != "cls_token"}
    with pytest.raises(SettingError, match="missing: cls_token"):
        load(less, tmp_path)
    load(less, tmp_path, untrained=["cls_token"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_named_before_the_training(value, state, tmp_path):
    damaged = state | {"blocks.3.norm1.bias": torch.full((64,), value)}
    with pytest.raises(SettingError, match=r"holds NaN or infinity: blocks\.3\.norm1\.bias"):
        load(damaged, tmp_path)


def test_quantized_weights_are_not_taken_for_numbers(state, tmp_path):
    with pytest.raises(SettingError, match=r"of another dtype: norm\.weight torch\.int8"):
        load(state | {"norm.weight": torch.zeros(64, dtype=torch.int8)}, tmp_path)


def test_names_of_transformers_are_recognized(tmp_path):
    names = ["embeddings.cls_token", "embeddings.patch_embeddings.projection.weight", "layernorm.weight"]
    with pytest.raises(SettingError, match="Hugging Face's transformers"):
        load({f"vit.{name}": torch.zeros(1) for name in names}, tmp_path)


class Holder:
    """A class that no other process has."""


@pytest.mark.parametrize("payload", [torch.nn.Linear(2, 2), {"model": {}, "log": Holder()}])
def test_a_file_that_would_run_code_is_refused_in_one_line_that_names_the_class(payload, tmp_path):
    with pytest.raises(SettingError) as error:
        load(payload, tmp_path)
    text = str(error.value)
    assert "Linear" in text or "Holder" in text
    assert not set("\n\x1b") & set(text)
    assert text.count("weights=") == 1


@pytest.mark.parametrize("payload", [[], {}, 3, torch.zeros(3), {"model": {"epoch": 3}}, {0: torch.zeros(1)}])
def test_a_file_without_named_tensors_is_named(payload, tmp_path):
    with pytest.raises(SettingError, match="holds no tensors by name"):
        load(payload, tmp_path)


@pytest.mark.parametrize("suffix", ["pth", "ckpt", "safetensors", "npz"])
def test_bytes_of_any_kind_end_in_one_line(suffix, tmp_path):
    generator = np.random.default_rng(0)
    tensors = {"norm.weight": torch.zeros(1000)}
    (save_file if suffix == "safetensors" else torch.save)(tensors, tmp_path / "whole")
    truncated = (tmp_path / "whole").read_bytes()[:-500]
    model = timm.create_model("test_vit", num_classes=0)
    for index, content in enumerate([b"", generator.bytes(100), b"PK\3\4" + generator.bytes(50), truncated]):
        file = tmp_path / f"{index}.{suffix}"
        file.write_bytes(content)
        with pytest.raises(SettingError, match=rf"^weights=.*{index}\.{suffix}"):
            load_weights(model, file, untrained=[], unused=[])


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    """A hub that accepts connections and never answers."""
    pytest.importorskip("huggingface_hub")
    server = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(TIMEOUTS, "connect", 0.2)
    yield server
    server.close()


@pytest.mark.usefixtures("silent_hub")
def test_a_hub_that_does_not_answer_is_one_line_after_the_timeout(capsys):
    started = time.monotonic()
    with pytest.raises(UserError, match=r"^backbone\.weights: cannot download timm/vit_tiny.*no answer.*connect once"):
        build("backbone=vit_micro", "backbone.timm=vit_tiny_patch16_224", "backbone.weights=null")
    assert time.monotonic() - started < 10
    assert "downloading the weights timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k" in capsys.readouterr().err


def test_a_cached_download_needs_no_network(monkeypatch, tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: str(file))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("the hub was asked"))
    assert weights_file.download_weights("vit_tiny_patch16_224") == file


def test_the_sha256_of_a_file_is_known_without_a_model(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"abc")
    assert weights_file.local_weights_sha256({"weights": str(file)}).startswith("ba7816bf")
    file.write_bytes(b"xyz")
    os.utime(file, ns=(1, 1))
    assert not weights_file.local_weights_sha256({"weights": str(file)}).startswith("ba7816bf")
    assert weights_file.local_weights_sha256({"weights": "random"}) is None
    assert weights_file.local_weights_sha256({"weights": None}) is None
    assert weights_file.local_weights_sha256({"weights": "package:vit_micro.safetensors"})
    with pytest.raises(SettingError, match=r"^backbone\.weights=none\.pth: there is no such file"):
        weights_file.local_weights_sha256({"weights": "none.pth"})
