"""Pretraining: views depend on the seed alone, every parameter trains, and interrupted runs resume bit for bit."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from moppa.backbone.weights import load_weights
from moppa.pretrain.images import make_views
from moppa.pretrain.loop import PretrainRecipe, lr_at, pretrain
from moppa.pretrain.objectives import Distill, MaskedAutoencoder, create_student
from moppa.pretrain.teacher import write_tokens
from moppa.pretrain.weights import write_weights
from moppa.utils.errors import UserError

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
RECIPE = PretrainRecipe(
    epochs=2, batch_size=2, lr=1e-3, weight_decay=0.05, warmup=0.1, clip=3.0, seed=0, mean=MEAN, std=STD
)
NUM_IMAGES = 6


def random_images():
    return np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 64, 64, 3), dtype=np.uint8)


def write_tar(folder, size=64):
    random = np.random.default_rng(0)
    with tarfile.open(folder / "images.tar", "w") as archive:
        for index in range(NUM_IMAGES):
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file, "PNG")
            member = tarfile.TarInfo(f"{index:03}.png")
            member.size = file.tell()
            file.seek(0)
            archive.addfile(member, file)
    return folder / "images.tar"


def teacher_tokens():
    return np.random.default_rng(1).normal(size=(NUM_IMAGES, 65, 16)).astype(np.float16)


def make_objective(kind):
    vit = create_student(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MaskedAutoencoder(vit) if kind == "masked" else Distill(vit, torch.zeros(2, 16), torch.ones(2, 16))


def test_views_depend_on_the_seed_alone_and_the_second_view_mirrors_the_first(tmp_path):
    tar = write_tar(tmp_path)
    first = [np.load(file) for file in make_views(tar, tmp_path / "first", num_views=3, seed=0)]
    same_seed = [np.load(file) for file in make_views(tar, tmp_path / "same", num_views=3, seed=0)]
    other_seed = [np.load(file) for file in make_views(tar, tmp_path / "other", num_views=3, seed=1)]
    assert all(np.array_equal(left, right) for left, right in zip(first, same_seed, strict=True))
    assert np.array_equal(first[1], first[0][:, :, ::-1])
    assert not np.array_equal(first[2], other_seed[2])


def test_wrong_images_are_reported(tmp_path):
    with pytest.raises(UserError, match="64 x 64 pixels"):
        make_views(write_tar(tmp_path, size=32), tmp_path / "views", num_views=1, seed=0)
    with pytest.raises(UserError, match=r"--images .*none\.tar: there is no such file"):
        make_views(tmp_path / "none.tar", tmp_path / "views", num_views=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["distill", "masked"])
def test_an_interrupted_pretraining_resumes_bit_for_bit(kind, tmp_path):
    view = (random_images(), teacher_tokens() if kind == "distill" else None)

    def interrupt_in_second_epoch(epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return view

    with pytest.raises(KeyboardInterrupt):
        pretrain(make_objective(kind), interrupt_in_second_epoch, recipe=RECIPE, checkpoint=tmp_path / "resumed.pt")
    resumed, uninterrupted = make_objective(kind), make_objective(kind)
    pretrain(resumed, lambda _: view, recipe=RECIPE, checkpoint=tmp_path / "resumed.pt")
    pretrain(uninterrupted, lambda _: view, recipe=RECIPE, checkpoint=tmp_path / "uninterrupted.pt")
    pairs = zip(resumed.parameters(), uninterrupted.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
    trained, initial = (next(iter(vit.blocks.parameters())) for vit in (resumed.vit, create_student(0)))
    assert not torch.equal(trained, initial)


def test_the_masked_autoencoder_trains_every_parameter():
    model = make_objective("masked")
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model(images, None, torch.Generator().manual_seed(0)).backward()
    untrained = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert untrained == []
    assert model.num_visible == 16


def test_the_distillation_loss_compares_standardized_features():
    model = make_objective("distill")
    model.mean += 1.0
    model.std *= 2.0
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    target = torch.tensor(teacher_tokens()[:2]).float()
    tokens = model.vit.forward_features(images)
    pairs = zip(model.heads, (tokens[:, 0], tokens[:, 1:]), (target[:, 0], target[:, 1:]), strict=True)
    losses = [(head(student) - (teacher - 1.0) / 2.0).square().mean() for head, student, teacher in pairs]
    assert torch.isclose(model(images, target, torch.Generator()), sum(losses), rtol=1e-5)


def test_the_teachers_tokens_are_computed_once(tmp_path):
    class Teacher(torch.nn.Module):
        num_features = 4
        num_images = 0

        def __init__(self):
            super().__init__()
            self.pretrained_cfg = {"mean": MEAN, "std": STD, "input_size": (3, 112, 112)}

        def forward_features(self, images):
            self.num_images += len(images)
            return images.mean((1, 2, 3))[:, None, None].expand(-1, 65, 4)

    np.save(tmp_path / "view.npy", random_images())
    teacher = Teacher()
    tokens = [np.load(write_tokens(tmp_path / "view.npy", tmp_path / "tokens.npy", teacher)) for _ in range(2)]
    assert teacher.num_images == NUM_IMAGES
    assert np.array_equal(*tokens)
    assert tokens[0].dtype == np.float16


def test_written_weights_load_into_the_backbone(tmp_path):
    vit = create_student(3)
    write_weights(vit, tmp_path / "vit.safetensors")
    loaded = create_student(0)
    load_weights(loaded, tmp_path / "vit.safetensors", untrained=(), unused=())
    pairs = zip(vit.parameters(), loaded.parameters(), strict=True)
    assert all(torch.equal(left.half(), right.half()) for left, right in pairs)
    assert (tmp_path / "vit.safetensors").stat().st_size < 6e6


def test_the_learning_rate_rises_then_falls_to_zero():
    rates = [lr_at(step, 100, peak=1.0, warmup=0.05) for step in range(100)]
    assert rates.index(max(rates)) in (4, 5)
    assert rates[-1] < 1e-3
