"""`moppa.attach`, `save`, `load` and `merge` with methods other than MoPPA, and with EVA, BEiT and DINOv3."""

import copy

import pytest
import timm
import torch

import moppa
from moppa.peft.collect import count_parameters
from moppa.utils.errors import UserError
from moppa.utils.method_yaml import read_method_yaml
from tests.conftest import CONFIGS, METHODS, QUICK_METHODS, mostly_slow
from tests.models import attach, frozen_model

SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2, "num_classes": 10}
MODELS = {
    "vit": lambda: timm.create_model("test_vit", depth=1, img_size=64, num_classes=10),
    "beit": lambda: timm.create_model("beit_base_patch16_224", img_size=64, **SMALL),
    "eva": lambda: timm.create_model("eva_giant_patch14_224", img_size=56, **SMALL),
    "eva02, q apart": lambda: timm.create_model("eva02_base_patch14_224", img_size=56, **SMALL),
    "dinov3": lambda: timm.create_model("vit_small_patch16_dinov3", img_size=64, **SMALL),
}


@pytest.fixture(autouse=True)
def _restore_global_generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def batch_for(model):
    size = model.patch_embed.img_size[0]
    return torch.randn(4, 3, size, size), torch.arange(4)


def train(model, images, labels):
    optimizer = torch.optim.SGD([tensor for tensor in model.parameters() if tensor.requires_grad], lr=0.5)
    for step in range(2):
        loss = torch.nn.functional.cross_entropy(model.train()(images), labels) + moppa.penalty(model, step / 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def check(make, method, path, **settings):
    """Attaches, trains, saves, loads into a fresh model and merges: the logits stay the same from the training on."""
    model = make()
    torch.nn.init.normal_(model.get_classifier().weight, std=0.1)
    fresh, (images, labels) = copy.deepcopy(model), batch_for(model)
    examples = {"examples": lambda: [(images, labels)]}  # which some methods read
    before = model.eval()(images).detach()
    assert moppa.attach(model, method, **settings, **examples) is model
    torch.testing.assert_close(model.eval()(images), before)
    train(model, images, labels)
    with torch.no_grad():
        expected = model.eval()(images)
        assert not torch.allclose(expected, before, atol=1e-3)
        moppa.save(model, path)
        moppa.load(fresh, path, **examples)
        fresh.get_classifier().load_state_dict(model.get_classifier().state_dict())
        torch.testing.assert_close(fresh.eval()(images), expected)
        assert count_parameters(fresh) == count_parameters(model)
        torch.testing.assert_close(moppa.merge(model)(images), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["lora", "ssf", "bitfit", "nola", "spt_lora", "adapter_plus"])
def test_a_saved_and_loaded_method_gives_the_same_logits_and_merges(method, tmp_path):
    check(MODELS["vit"], method, tmp_path / "method.safetensors")


@pytest.mark.parametrize("name", [name for name in MODELS if name != "vit"])
def test_eva_beit_and_dinov3_are_accepted(name, tmp_path):
    check(MODELS[name], "lora", tmp_path / "lora.safetensors", targets=["q", "v", "fc1"], rank=2)
    check(MODELS[name], "moppa", tmp_path / "moppa.safetensors", position="residual", rank=2)


@pytest.mark.parametrize(
    ("name", "method", "settings", "message"),
    [
        ("beit", "ssf", {}, "SSF shifts the bias of every operation, and blocks.0.attn.qkv of Beit has none"),
        ("beit", "vpt_deep", {}, "VPT adds prompts to the blocks of a plain vision transformer, which Beit is not"),
        ("dinov3", "vpt_deep", {}, "which Eva is not"),
        (
            "beit",
            "moppa",
            {"position": "qv"},
            "position=qv adds to the output of the layer qkv, and beit never calls one",
        ),
        ("eva", "spt_adapter", {}, "SPT-Adapter adds to the output of the layer qkv, and eva never calls one"),
        ("eva02, q apart", "lora_noah", {}, "share_down=true: this model has q, k and v in layers of their own"),
        ("eva02, q apart", "fact_tk", {}, "FacT divides weights into 32 x 32 slices"),
        ("vit", "lora", {"rank": 0}, "rank=0: it must be an integer"),
        ("vit", "lora", {"rnak": 4}, "rnak: there is no such setting; choose from rank, alpha, targets"),
        ("vit", "bitfit", {"rank": 4}, "rank: there is no such setting; bitfit has none"),
        ("vit", "lorra", {}, "method='lorra'"),
        ("vit", "spt_lora", {}, "spt_lora reads training images: pass examples="),
    ],
)
def test_what_does_not_fit_is_one_clear_error(name, method, settings, message):
    model = MODELS[name]()
    images, labels = batch_for(model)
    examples = {"examples": lambda: [(images, labels)]} if method == "spt_adapter" else {}
    with pytest.raises(UserError) as error:
        moppa.attach(model, method, **settings, **examples)
    assert message in str(error.value)


def test_a_method_is_attached_once_and_saved_before_merging(tmp_path):
    model = moppa.attach(MODELS["vit"](), "lora")
    with pytest.raises(UserError, match="has lora attached already"):
        moppa.attach(model, "ssf")
    with pytest.raises(UserError, match=r"save lora before moppa\.merge"):
        moppa.save(moppa.merge(model), tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match="linear trains the head alone"):
        moppa.save(moppa.attach(MODELS["vit"](), "linear"), tmp_path / "linear.safetensors")


WITHOUT_IMAGES = [method for method in METHODS if not method.startswith(("spt", "gps", "rdp", "mask"))]


@pytest.mark.parametrize("method", mostly_slow(WITHOUT_IMAGES, QUICK_METHODS))
def test_the_library_attaches_what_a_cell_trains(method):
    cell = attach(frozen_model(), method)
    library = moppa.attach(frozen_model(), method, generator=torch.Generator().manual_seed(0))
    trained = [[name for name, tensor in model.named_parameters() if tensor.requires_grad] for model in (cell, library)]
    assert trained[0] == trained[1]
    settings = read_method_yaml(CONFIGS / "method" / f"{method}.yaml")["attach"]
    assert library.moppa_settings == {name: value for name, value in settings.items() if not name.startswith("_")}


def test_several_methods_are_attached_saved_loaded_and_merged(tmp_path):
    methods = {"lora": {"rank": 2}, "adaptformer": {"layers": [0], "reads": "after_norm", "dropout": 0.0}}
    check(MODELS["vit"], methods, tmp_path / "several.safetensors")
    model = moppa.attach(MODELS["vit"](), {"lora": {"rank": 2}, "adaptformer": {"layers": []}})
    assert not any("adapter" in name for name, _ in model.named_parameters())
    with pytest.raises(UserError, match="rnk: there is no such setting; choose from rank"):
        moppa.attach(MODELS["vit"](), {"lora": {"rnk": 2}})
    with pytest.raises(
        UserError, match=r"methods\.b_convpass=convpass and methods\.a_vpt_deep=vpt_deep: one of them adds"
    ):
        moppa.attach(MODELS["vit"](), {"vpt_deep": {}, "convpass": {}})
