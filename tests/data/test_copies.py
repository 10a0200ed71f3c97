"""Copies of cached splits, of prepared data sets and of NOAH's archive, from folders, servers and the hub."""

import hashlib
import io
import json
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest

from moppa.cli import data_pack, data_unpack
from moppa.data import cache, copies, remote
from moppa.data.check import copies_of
from moppa.data.images import ImageFormat
from moppa.data.split import read_manifest, split_folder
from moppa.data.task import SPLITS, Task
from moppa.record.schema import NEUTRAL
from moppa.utils.errors import SettingError, UserError
from tests.data import miniatures
from tests.data.test_all_tasks import NUM_MOCKED, mocked, task_and_source
from tests.data.test_without_tensorflow import prepared

IMAGE_FORMAT = ImageFormat(16, "bicubic")
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def packed(tmp_path, monkeypatch, capsys):
    """A folder of copies with the three splits of DTD, with random images."""
    monkeypatch.setattr(Task, "num_images", lambda self, split: NUM_MOCKED)
    task, source = task_and_source("dtd", f"data.dir={tmp_path}", f"data.cache={tmp_path / 'cache'}")
    with mocked(tmp_path, monkeypatch):
        cache.prepare_splits(task, SPLITS, source, IMAGE_FORMAT)
    words = ["pack", "task=dtd", f"out={tmp_path / 'copies'}", f"data.cache={tmp_path / 'cache'}"]
    monkeypatch.setattr(sys, "argv", words)
    assert data_pack.main() == 0
    assert capsys.readouterr().out.count(".tar: ") == 3
    return tmp_path / "copies"


def copied(packed, *overrides):
    """Returns the task and the folders of its splits in a new cache, from the copies and without any data set."""
    here = packed.parent / "new"
    task, source = task_and_source("dtd", f"data.dir={here}", f"data.cache={here}", "data.download=false", *overrides)
    return task, cache.prepare_splits(task, SPLITS, source, IMAGE_FORMAT)


def archive_of(packed, split):
    return next(packed.glob(f"*/*/tfds/{split}-*.tar"))


def test_a_mirror_gives_the_same_splits_and_the_record_names_the_copy(packed):
    task, folders = copied(packed, f"data.mirror={packed}")
    for split, folder in folders.items():
        manifest = read_manifest(folder, task, split)
        original = packed.parent / "cache" / folder.relative_to(packed.parent / "new")
        assert (folder / "images.npy").read_bytes() == (original / "images.npy").read_bytes()
        assert manifest.pop("copied_from") == str(archive_of(packed, split))
        assert manifest == read_manifest(original, task, split)
    manifests = {split: read_manifest(folder, task, split) for split, folder in folders.items()}
    assert copies_of(manifests) == {"copied_from": {split: str(archive_of(packed, split)) for split in SPLITS}}
    assert not [file for file in (packed.parent / "new").rglob(".*") if file.parent.name == "tfds"]  # nothing is left
    assert {"data.mirror", "data.url", "data.sha256"} <= set(NEUTRAL)


def test_unpack_installs_what_the_cache_lacks(packed, monkeypatch, capsys):
    for expected in ("installed in", "in the cache already"):
        copies.archives_at.cache_clear()
        monkeypatch.setattr(sys, "argv", ["unpack", str(packed), f"data.cache={packed.parent / 'new'}"])
        assert data_unpack.main() == 0
        assert capsys.readouterr().out.count(expected) == 3


def test_packing_again_gives_the_same_archives(packed, monkeypatch):
    before = (packed / "manifest.json").read_bytes()
    assert data_pack.main() == 0
    assert (packed / "manifest.json").read_bytes() == before


def damage(packed, name):
    """Changes the copies in one way; returns the words of the error."""
    archive, manifest = archive_of(packed, "val200"), json.loads((packed / "manifest.json").read_text())
    entry = manifest["archives"][archive.relative_to(packed).as_posix()]
    if name == "bytes":
        archive.write_bytes(archive.read_bytes().replace(b"banded", b"blotch") + b"\0")
        return ["val200", "the sha256 of the file is", entry["sha256"]]
    if name == "missing":
        archive.unlink()
        return ["has no", "the copy is incomplete"]
    if name in ("pickle", "outside"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as opened:
            opened.addfile(tarfile.TarInfo({"pickle": "images.pkl", "outside": "../images.npy"}[name]))
        archive.write_bytes(file.getvalue())
        entry["sha256"] = hashlib.sha256(file.getvalue()).hexdigest()
    if name == "manifest":
        manifest = {"format": 1, "archives": {"../../x.tar": entry}}
    if name == "text":
        manifest = ["no", "copies"]
    (packed / "manifest.json").write_text(json.dumps(manifest))
    return {
        "pickle": ["does not hold a cached split"],
        "outside": ["leads out of the folder", "nothing was unpacked"],
        "manifest": ["lists '../../x.tar'", "not a cached split"],
        "text": ["is not a manifest of `moppa data pack`"],
    }[name]


@pytest.mark.parametrize("name", ["bytes", "missing", "pickle", "outside", "manifest", "text"])
def test_a_damaged_copy_is_an_error_and_nothing_is_installed(packed, name):
    words = damage(packed, name)
    with pytest.raises(UserError) as caught:
        copied(packed, f"data.mirror={packed}")
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)
    assert not list((packed.parent / "new").glob("*/*/*/val200-*"))


def test_what_the_mirror_lacks_is_named(tmp_path, capsys):
    task, source = task_and_source("dtd", f"data.dir={tmp_path}", f"data.cache={tmp_path}", "data.download=false",
                                   f"data.mirror={tmp_path / 'empty'}")  # fmt: skip
    with pytest.raises(UserError, match="no prepared dtd"):
        cache.prepare_splits(task, SPLITS, source, IMAGE_FORMAT)
    assert "empty has no copy of dtd/3.0.1" in capsys.readouterr().err


def test_a_mirror_can_hold_the_prepared_data_set(tmp_path, monkeypatch):
    task, original, _ = prepared("dtd", miniatures.dtd, tmp_path / "tfds", monkeypatch)
    _, source = task_and_source("dtd", f"data.dir={tmp_path / 'new'}", f"data.mirror={tmp_path / 'tfds'}")
    assert [record["image"] for record in source._open(task, "train")] == (
        [record["image"] for record in original._open(task, "train")]
    )
    assert (tmp_path / "new/dtd/3.0.1/label.labels.txt").exists()
    next((tmp_path / "tfds").glob("dtd/*/dtd-test*")).unlink()
    _, source = task_and_source("dtd", f"data.dir={tmp_path / 'other'}", f"data.mirror={tmp_path / 'tfds'}")
    with pytest.raises(UserError, match=r"dtd-test.array_record-00000-of-00001.* is missing"):
        source._open(task, "train")


@pytest.fixture
def server():
    """Serves CONTENT, of which the first request gets a part; the ranges that were asked for are in `ranges`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def do_GET(self):
            if self.path != "/a.tar":
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            self.server.ranges.append(asked)
            start = int(asked[6:-1]) if asked else 0
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.end_headers()
                return
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : 1000 if len(self.server.ranges) == 1 else None])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.ranges = []
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def test_an_interrupted_copy_resumes(server, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remote, "BLOCK", 100)
    url, target = f"http://127.0.0.1:{server.server_port}/a.tar", tmp_path / "a.tar"
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(UserError, match="run it again to resume"):
        remote.fetch("data.url", url, target, sha256=digest)
    assert not target.exists()
    remote.fetch("data.url", url, target, sha256=digest)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]
    target.rename(tmp_path / "a.tar.part")  # everything arrived, but it was not renamed
    remote.fetch("data.url", url, target, sha256=digest)
    assert server.ranges[-1] == f"bytes={len(CONTENT)}-"
    with pytest.raises(FileNotFoundError):
        remote.fetch("data.url", f"{url}x", tmp_path / "b")


def test_a_copy_from_the_hub_goes_through_its_file_system(tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "a.zip").write_bytes(CONTENT)
    paths = []

    def local(path):
        paths.append(path)
        return tmp_path / "hub" / path.rpartition("/")[2]

    monkeypatch.setattr(remote, "check_reachable", lambda url: None)
    monkeypatch.setattr(huggingface_hub.HfFileSystem, "size", lambda self, path: local(path).stat().st_size)
    monkeypatch.setattr(huggingface_hub.HfFileSystem, "open", lambda self, path, mode: local(path).open(mode))
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:700])
    remote.fetch("data.url", "hf://datasets/lab/copies/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert set(paths) == {"datasets/lab/copies/a.zip"}


def test_noahs_archive_is_copied_if_its_sha256_is_right(tmp_path):
    names = {"train800": range(800), "val200": range(800, 1000)} | {"train800val200": range(1000), "test": range(5)}
    files = {f"vtab-1k/eurosat/{name}.txt": "".join(f"images/{name}/{i}.jpg {i % 10}\n" for i in numbers).encode()
             for name, numbers in names.items()}  # fmt: skip
    archive = miniatures.packed_zip(files)
    (tmp_path / "copy.zip").write_bytes(archive)
    place = ["data=noah", f"data.dir={tmp_path / 'noah'}", f"data.url={tmp_path / 'copy.zip'}"]
    digest = hashlib.sha256(archive).hexdigest()
    task, source = task_and_source("eurosat", *place, f"data.sha256={digest}")
    assert (source.task_folder(task) / "test.txt").read_bytes() == files["vtab-1k/eurosat/test.txt"]
    with pytest.raises(SettingError, match=r"data\.sha256=None: give the 64 hex digits"):
        task_and_source("eurosat", *place)
    _, source = task_and_source("eurosat", *place, f"data.dir={tmp_path / 'b'}", f"data.sha256={'0' * 64}")
    with pytest.raises(UserError, match=f"the sha256 of the file is {digest}"):
        source.task_folder(task)


def test_the_name_of_an_archive_is_that_of_the_split(packed):
    task, source = task_and_source("dtd", f"data.cache={packed}")
    folder = split_folder(task, "val200", source, IMAGE_FORMAT)
    assert archive_of(packed, "val200") == folder.with_name(f"{folder.name}.tar")
