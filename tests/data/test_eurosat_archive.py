"""EuroSAT's original archive, made of its original files, is downloaded, prepared without TensorFlow and official."""

import hashlib
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import pytest

from moppa.data.cache import prepare_splits
from moppa.data.check import split_check
from moppa.data.images import ImageFormat
from moppa.data.split import read_manifest
from moppa.data.task import SPLITS
from tests.conftest import ROOT
from tests.data.test_all_tasks import task_and_source

SHARED = ROOT.parent / "shared" / "tfds"
URL = "http://madm.dfki.de/files/sentinel/EuroSAT.zip"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "eurosat").is_dir(), reason="needs EuroSAT in ../shared/tfds, as developers have"),
    pytest.mark.skipif(bool(find_spec("tensorflow")), reason="TensorFlow is installed, and TFDS uses it"),
]


@pytest.fixture
def archive(tmp_path):
    """The zip as its authors publish it, with the original JPEG files: 2750/CLASS/CLASS_NUMBER.jpg."""
    task, source = task_and_source("eurosat", f"data.dir={SHARED}")
    records = source._open(task, "train")
    names = source.builder(task).info.features["label"].names
    file = tmp_path / "EuroSAT.zip"
    with zipfile.ZipFile(file, "w") as opened:
        for index in range(len(records)):
            record = records[index]
            name = record["filename"].decode()
            opened.writestr(f"2750/{names[record['label']]}/{name}", record["image"])
    return file


@pytest.fixture
def requests(archive, monkeypatch):
    """Serves the archive as the proxy of this process; returns the requests."""
    lines = []

    class Proxy(BaseHTTPRequestHandler):
        def do_HEAD(self):
            lines.append(self.requestline)
            self.send_response(200 if self.path == URL else 404)
            self.send_header("Content-Length", str(archive.stat().st_size))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            with archive.open("rb") as file:
                while block := file.read(1 << 20):
                    self.wfile.write(block)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    yield lines
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_original_archive_gives_the_official_images(archive, requests, tmp_path, monkeypatch):
    from tensorflow_datasets.core.download.checksums import UrlInfo

    image_format = ImageFormat(16, "bicubic")
    task, source = task_and_source("eurosat", f"data.dir={tmp_path / 'tfds'}", f"data.cache={tmp_path / 'cache'}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    info = UrlInfo(size=archive.stat().st_size, checksum=digest, filename="EuroSAT.zip")
    monkeypatch.setattr(type(source.builder(task)), "url_infos", {URL: info})
    folders = prepare_splits(task, SPLITS, source, image_format)
    assert f"GET {URL} HTTP/1.1" in requests
    check = split_check(task, source, folders)
    assert (check["verdict"], check["test"]) == ("official", "official")
    assert "tensorflow" not in sys.modules

    _, shared = task_and_source("eurosat", f"data.dir={SHARED}", f"data.cache={tmp_path / 'cache of shared'}")
    for split, folder in prepare_splits(task, SPLITS, shared, image_format).items():
        first, second = (read_manifest(place, task, split) for place in (folder, folders[split]))
        assert {name: first[name] for name in first if "sha256" in name} == (
            {name: second[name] for name in second if "sha256" in name}
        )
