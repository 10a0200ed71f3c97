"""The data sets of VTAB are prepared from their original archives without TensorFlow."""

import hashlib
import io
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from moppa.data import tfds_network
from moppa.data.decode import decode
from moppa.data.download import download_and_prepare
from moppa.data.task import check_split
from moppa.data.tfds import to_example
from moppa.data.tfds_without_tensorflow import read_tfrecords
from moppa.utils.errors import UserError
from tests.conftest import mostly_slow
from tests.data import miniatures
from tests.data.test_all_tasks import task_and_source

NEEDED = {"patch_camelyon": "h5py", "dsprites_loc": "h5py"} | dict.fromkeys(
    ("kitti", "diabetic_retinopathy", "sun397"), "cv2"
)
MINIATURES = {
    "cifar100": miniatures.cifar100,
    "caltech101": miniatures.caltech101,
    "dtd": miniatures.dtd,
    "oxford_flowers102": miniatures.oxford_flowers102,
    "oxford_iiit_pet": miniatures.oxford_iiit_pet,
    "svhn": miniatures.svhn_cropped,
    "sun397": miniatures.sun397,
    "patch_camelyon": miniatures.patch_camelyon,
    "resisc45": miniatures.resisc45,
    "diabetic_retinopathy": miniatures.diabetic_retinopathy_detection,
    "clevr_count": miniatures.clevr,
    "dmlab": miniatures.dmlab,
    "kitti": miniatures.kitti,
    "dsprites_loc": miniatures.dsprites,
    "smallnorb_azi": miniatures.smallnorb,
}
QUICK = ("cifar100", "dmlab", "oxford_iiit_pet")

pytestmark = pytest.mark.skipif(bool(find_spec("tensorflow")), reason="TensorFlow is installed, and TFDS uses it")


def serve(files, builder, monkeypatch):
    """Makes TFDS download `files` (by URL) in place of the originals, with their own checksums."""
    from tensorflow_datasets.core.download import checksums, downloader

    @contextmanager
    def open_url(url, **_):
        yield SimpleNamespace(url=url, headers={}), [files[url]]

    infos = {
        url: checksums.UrlInfo(size=len(file), checksum=hashlib.sha256(file).hexdigest(), filename=url.split("/")[-1])
        for url, file in files.items()
    }
    monkeypatch.setattr(downloader, "_open_url", open_url)
    monkeypatch.setattr(tfds_network, "check_reachable", lambda url: None)
    monkeypatch.setattr(type(builder), "url_infos", infos)


def prepared(name, miniature, tmp_path, monkeypatch):
    """Returns the task, its source with the prepared miniature, and what it should hold by split."""
    manual = tmp_path / "downloads" / "manual"
    task, source = task_and_source(name, f"data.dir={tmp_path}")
    builder = source.builder(task)
    files, expected = miniature(manual)
    serve(files, builder, monkeypatch)
    download_and_prepare(builder, task, str(tmp_path))
    assert "tensorflow" not in sys.modules
    return task, source, expected


def pixels(image):
    """Returns the sha256 of the RGB pixels of an array or of an encoded image."""
    if isinstance(image, np.ndarray):
        return hashlib.sha256(
            np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], 3)).tobytes()
        ).hexdigest()
    return hashlib.sha256(np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))).hexdigest()


@pytest.mark.parametrize("name", mostly_slow(MINIATURES, QUICK))
def test_a_data_set_is_prepared_from_its_archives(name, tmp_path, monkeypatch):
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    task, source, expected = prepared(name, MINIATURES[name], tmp_path, monkeypatch)
    for split, examples in expected.items():
        records = source._open(task, split)
        actual = [to_example(task, records[index]) for index in range(len(records))]
        lossy = name == "oxford_iiit_pet" and split == "train"  # one image is encoded again as JPEG
        if lossy:
            again = decode(next(row for row in actual if row.label == 5), "", pixel_scale=1)
            assert np.abs(np.asarray(again).astype(int) - examples[1][2]).max() <= 2
        digest = (lambda image: None) if lossy or examples[0][2] is None else pixels
        assert sorted((row.name or "", row.label, digest(row.image)) for row in actual) == sorted(
            (file if task.name_key else "", label, digest(image)) for file, label, image in examples
        )


@pytest.mark.slow
def test_cifar100_has_the_official_split_whatever_its_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(miniatures, "noise", lambda *shape: np.zeros(shape, dtype=np.uint8))
    task, source, _ = prepared("cifar100", lambda manual: miniatures.cifar100(manual, (50_000, 10_000)), tmp_path,
                               monkeypatch)  # fmt: skip
    names = {split: [row.name for row in source.examples(task, split)] for split in ("train800", "val200")}
    assert check_split(task, names["train800"], names["val200"]) == "official"


def test_what_the_stand_in_lacks_is_an_error_with_the_extra(tmp_path, monkeypatch):
    task, source = task_and_source("dtd", f"data.dir={tmp_path}")
    builder = source.builder(task)

    def generate(builder, data_path, split_name):
        sys.modules[type(builder).__module__].tf.io.parse_tensor(b"")

    serve(miniatures.dtd(None)[0], builder, monkeypatch)
    monkeypatch.setattr(type(builder), "_generate_examples", generate)
    with pytest.raises(UserError, match=r"needs TensorFlow .*tf\.io\.parse_tensor.*\[.*prepare"):
        download_and_prepare(builder, task, str(tmp_path))


def test_a_missing_library_is_an_error_with_its_extra(tmp_path, monkeypatch):
    task, source = task_and_source("kitti", f"data.dir={tmp_path}")
    builder = source.builder(task)
    serve(miniatures.kitti(None)[0], builder, monkeypatch)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"needs OpenCV .*\[.*opencv"):
        download_and_prepare(builder, task, str(tmp_path))


def test_a_truncated_tfrecord_is_an_error(tmp_path):
    file = tmp_path / "a.tfrecord"
    file.write_bytes(miniatures.tfrecords([{"a": b"text"}])[:-5])
    with pytest.raises(ValueError, match="truncated"):
        list(read_tfrecords(file))
