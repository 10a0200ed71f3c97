"""Downloads without a network end soon, with one line, on servers of this machine that hang in several ways."""

import os
import re
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tensorflow_datasets as tfds

from moppa.backbone import weights_file
from moppa.data.download import download_and_prepare
from moppa.utils.config import instantiate
from moppa.utils.errors import SettingError, UserError
from moppa.utils.network import TIMEOUTS, NoAnswerError, check_reachable, set_connect_timeout
from tests.conftest import config_of
from tests.python_process import PythonProcess

pytestmark = pytest.mark.usefixtures("short_timeouts")


class Numbers(tfds.core.GeneratorBasedBuilder):
    """A data set of one file, at `url`."""

    VERSION = tfds.core.Version("1.0.0")
    url = ""

    def _info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"label": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        dl_manager.download(self.url)
        raise AssertionError("the download ended")

    def _generate_examples(self):
        yield from ()


class HalfFile(BaseHTTPRequestHandler):
    """Answers every request with 10 of 1000 bytes, and then sends nothing more."""

    def do_HEAD(self):
        self.send_response(200)
        for name, value in {"Content-Length": "1000", "ETag": '"a"', "X-Repo-Commit": "0" * 40}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(b"0123456789")
        self.wfile.flush()
        self.server.is_closing.wait(30)

    def log_message(self, *_):
        pass


@pytest.fixture
def short_timeouts(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(TIMEOUTS, "connect", 0.3)
    monkeypatch.setattr(TIMEOUTS, "stall", 0.3)


@pytest.fixture
def silent():
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def full():
    """Listens, but accepts no more connections, as a firewall that drops them."""
    if sys.platform != "linux":
        pytest.skip("other systems refuse connections if the queue is full")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for client in waiting:
            client.close()


@pytest.fixture
def refusing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def half():
    server = ThreadingHTTPServer(("127.0.0.1", 0), HalfFile)
    server.is_closing, server.daemon_threads = threading.Event(), True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.is_closing.set()
    server.shutdown()
    server.server_close()


def download(url, folder):
    builder = Numbers(data_dir=folder)
    builder.url = f"{url}/file.zip"
    download_and_prepare(builder, instantiate(config_of("task=cifar100"), "task"), str(folder))


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("silent", r"no answer from {url} within 0\.[3-9] s \(run\.connect_timeout=0\.3\)"),
        ("full", r"no answer from {url} within 0\.[3-9] s \(run\.connect_timeout=0\.3\)"),
        ("refusing", r"{url} cannot be reached \(Connection refused\)"),
        ("half", r"{url}/file\.zip sent nothing for 0\.3 s"),
    ],
)
def test_a_data_set_that_cannot_be_downloaded_is_one_line_with_the_ways_out(server, reason, tmp_path, request):
    url = request.getfixturevalue(server)
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        download(url, tmp_path)
    assert time.monotonic() - started < 5
    assert re.match(
        rf"^task cifar100: numbers/1\.0\.0 cannot be downloaded: {reason.format(url=url)}; ", str(error.value)
    )
    for way_out in (f"data.dir={tmp_path}", "data.cache", "HTTPS_PROXY"):
        assert way_out in str(error.value)
    waiting = [thread for thread in threading.enumerate() if not thread.daemon and "Executor" in thread.name]
    assert waiting == []


def test_the_error_names_the_proxy_without_its_password(silent, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", silent.replace("//", "//me:secret@"))
    with pytest.raises(NoAnswerError, match=r"no answer from http://data\.example \(through the proxy 127\.") as error:
        check_reachable("http://data.example/file.zip")
    assert "secret" not in str(error.value)
    monkeypatch.setenv("HTTP_PROXY", silent.replace("http", "socks5h"))
    check_reachable("http://data.example/file.zip")  # urllib knows no SOCKS


def test_any_answer_means_that_the_server_is_reachable(half):
    check_reachable(f"{half}/file.zip")
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_404, args=[server])
        thread.start()
        check_reachable(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def answer_404(server):
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("seconds", [0, -1, "soon", True, None])
def test_a_connect_timeout_is_a_positive_number(seconds):
    with pytest.raises(SettingError, match=r"^run\.connect_timeout=.*must be a number above 0"):
        set_connect_timeout(seconds)


@pytest.mark.slow
def test_weights_that_stop_coming_are_one_line(half, tmp_path, monkeypatch):
    constants = {
        "ENDPOINT": half,
        "HUGGINGFACE_CO_URL_TEMPLATE": half + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path),
        "HF_HUB_DOWNLOAD_TIMEOUT": 0.3,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in constants.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    started = time.monotonic()
    with pytest.raises(SettingError, match=r"^backbone\.weights: cannot download timm/vit_tiny.* HF_HUB_OFFLINE=1"):
        weights_file.download_weights("vit_tiny_patch16_224")
    assert time.monotonic() - started < 30


RUN = ["run.py", "backbone=test_vit", "backbone.image_size=32", "run.results=FOLDER/results"]


@pytest.mark.parametrize(
    ("command", "number", "status"),
    [
        (RUN, signal.SIGTERM, 75),
        pytest.param(RUN, signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(["-m", "moppa.cli.main", "data", "prepare"], signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(["-m", "moppa.cli.main", "data", "prepare"], signal.SIGTERM, -15, marks=pytest.mark.slow),
        pytest.param([*RUN, "backbone.weights=null"], signal.SIGTERM, -15, marks=pytest.mark.slow),
        pytest.param([*RUN, "backbone.weights=null"], signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_download_that_hangs_ends_on_a_signal_at_once(command, number, status, silent, tmp_path):
    words = [word.replace("FOLDER", str(tmp_path)) for word in command]
    settings = ["task=cifar100", f"data.dir={tmp_path}/tfds", f"data.cache={tmp_path}/cache", "run.connect_timeout=100"]
    hub = {"HF_HUB_CACHE": f"{tmp_path}/hub", "HF_HUB_OFFLINE": "0", "HTTPS_PROXY": silent}
    process = PythonProcess(*words, *settings, **hub)
    while " downloading" not in f" {process.streams[1].read_text()}":
        assert process.poll() is None, process.streams[1].read_text()
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.process.pid, number)
    started = time.monotonic()
    done = process.communicate()
    assert time.monotonic() - started < 30  # on an idle machine it is 1 s, and 100 s if the exit waits for the server
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
