"""Pretraining: views that depend on the seed alone, objectives that learn, and a run that goes on to the same bytes."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from moppa.backbone.weights import load_weights
from moppa.pretrain.images import make_views
from moppa.pretrain.loop import Pretraining, pretrain
from moppa.pretrain.objectives import Distill, Masked, lr_at, student
from moppa.pretrain.teacher import extract_features
from moppa.pretrain.weights import write_weights
from moppa.utils.errors import UserError

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
COUNT = 20


def tar_in(folder, size=64):
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    with tarfile.open(folder / "images.tar", "w") as archive:
        for index in range(COUNT):
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file, "PNG")
            facts = tarfile.TarInfo(f"{index:03}.png")
            facts.size = file.tell()
            file.seek(0)
            archive.addfile(facts, file)
    return folder / "images.tar"


def how(epochs):
    return Pretraining(epochs=epochs, batch_size=8, lr=1e-3, weight_decay=0.05, warmup=0.1, clip=3.0, seed=0)


def targets():
    return np.random.default_rng(1).normal(size=(COUNT, 65, 16)).astype(np.float16)


def objective(kind):
    vit = student(0)
    if kind == "masked":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Masked(vit)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Distill(vit, torch.zeros(2, 16), torch.ones(2, 16))


def test_views_depend_on_the_seed_alone_and_the_second_is_the_first_mirrored(tmp_path):
    tar = tar_in(tmp_path)
    one = [np.load(file) for file in make_views(tar, tmp_path / "one", num_views=3, seed=0)]
    again = [np.load(file) for file in make_views(tar, tmp_path / "again", num_views=3, seed=0)]
    other = [np.load(file) for file in make_views(tar, tmp_path / "other", num_views=3, seed=1)]
    assert all(np.array_equal(left, right) for left, right in zip(one, again, strict=True))
    assert np.array_equal(one[1], one[0][:, :, ::-1])
    assert not np.array_equal(one[2], other[2])


def test_images_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="64 x 64 pixels"):
        make_views(tar_in(tmp_path, size=32), tmp_path / "views", num_views=1, seed=0)
    with pytest.raises(UserError, match="--images FILE"):
        make_views(tmp_path / "none.tar", tmp_path / "views", num_views=1, seed=0)


@pytest.mark.parametrize("kind", ["distill", "masked"])
def test_a_pretraining_that_was_stopped_goes_on_to_the_same_bytes(kind, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8)
    view = (images, targets() if kind == "distill" else None)
    stopped, whole = objective(kind), objective(kind)

    def until_second(epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return view

    with pytest.raises(KeyboardInterrupt):
        pretrain(stopped, until_second, how=how(2), mean=MEAN, std=STD, checkpoint=tmp_path / "stopped.pt")
    resumed = objective(kind)
    for one, file in ((resumed, "stopped.pt"), (whole, "whole.pt")):
        pretrain(one, lambda _: view, how=how(2), mean=MEAN, std=STD, checkpoint=tmp_path / file)
    assert all(torch.equal(left, right) for left, right in zip(resumed.parameters(), whole.parameters(), strict=True))
    assert not torch.equal(next(iter(resumed.vit.blocks.parameters())), next(iter(student(0).blocks.parameters())))


def test_masked_patches_alone_are_guessed_and_every_part_learns():
    model = objective("masked")
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model(images, None, torch.Generator().manual_seed(0)).backward()
    still = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()]
    assert still == []
    assert model.num_kept == 16


def test_the_distilled_loss_is_that_of_standardized_features():
    model = objective("distill")
    model.mean += 1.0
    model.std *= 2.0
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    target = torch.tensor(targets()[:2]).float()
    tokens = model.vit.forward_features(images)
    errors = [
        (head(mine) - (theirs - 1.0) / 2.0).square().mean()
        for head, mine, theirs in zip(
            model.heads, (tokens[:, 0], tokens[:, 1:]), (target[:, 0], target[:, 1:]), strict=True
        )
    ]
    assert torch.isclose(model(images, target, torch.Generator()), sum(errors), rtol=1e-5)


def test_a_teachers_features_go_on_where_they_were_left(tmp_path):
    class Teacher(torch.nn.Module):
        num_features = 4
        num_seen = 0

        def __init__(self):
            super().__init__()
            self.pretrained_cfg = {"mean": MEAN, "std": STD, "input_size": (3, 112, 112)}

        def forward_features(self, images):
            self.num_seen += len(images)
            return images.mean((1, 2, 3))[:, None, None].expand(-1, 65, 4)

    np.save(tmp_path / "view.npy", np.random.default_rng(0).integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8))
    teacher = Teacher()
    made = [np.load(extract_features(tmp_path / "view.npy", tmp_path / "tokens.npy", teacher)) for _ in range(2)]
    assert teacher.num_seen == COUNT
    assert np.array_equal(*made)
    assert made[0].dtype == np.float16


def test_shipped_weights_load_strictly_into_the_backbone(tmp_path):
    vit = student(3)
    write_weights(vit, tmp_path / "vit.safetensors")
    loaded = student(0)
    load_weights(loaded, tmp_path / "vit.safetensors", untrained=(), unused=())
    assert all(
        torch.equal(left.half(), right.half())
        for left, right in zip(vit.parameters(), loaded.parameters(), strict=True)
    )
    assert (tmp_path / "vit.safetensors").stat().st_size < 6e6


def test_the_rate_rises_then_falls_to_zero():
    rates = [lr_at(step, 100, peak=1.0, warmup=0.05) for step in range(100)]
    assert rates.index(max(rates)) in (4, 5)
    assert rates[-1] < 1e-3
