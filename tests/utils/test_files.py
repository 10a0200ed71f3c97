"""Files and locks: permissions, file systems without locks, and YAMLs that cannot be read."""

import errno
import fcntl
import os
import resource
from multiprocessing import get_context

import pytest
import safetensors.torch
import torch

from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError
from moppa.utils.locks import file_lock
from moppa.utils.yaml_files import read_yaml, yaml_files


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077], ids=oct)
def test_a_file_has_the_permissions_of_the_umask_also_if_a_library_makes_it_private(umask, tmp_path):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "new" / "file") as temporary:
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask


def save_by_torch(tensors, path):
    with path.open("wb") as file:
        torch.save(tensors, file)


@pytest.mark.parametrize("save", [save_by_torch, safetensors.torch.save_file])
def test_a_file_system_that_refuses_a_write_of_a_library_is_named(save, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # a longer file is an error, as on a full disk
    try:
        refused = pytest.raises(UserError, match=r"cannot write .*weights: File too large")
        with refused, atomic_write(tmp_path / "weights") as temporary:
            save({"weight": torch.zeros(10_000)}, temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, None])
def test_a_file_system_without_locks_is_an_error(number, tmp_path, monkeypatch):
    def flock(*_):
        if number is not None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(UserError, match=r"has no working file locks.*data\.cache=DIR"),
        file_lock(tmp_path / "lock", waiting=""),
    ):
        pass


def test_a_lock_is_free_after_its_block_and_may_be_removed_inside(tmp_path):
    path = tmp_path / "lock"
    for _ in range(2):
        with file_lock(path, waiting="waiting"):
            path.unlink()


def hold(path, is_held, may_end):
    with file_lock(path, waiting=""):
        is_held.set()
        may_end.wait()


def test_a_second_process_waits_and_says_so(tmp_path, capsys):
    context = get_context("fork")
    is_held, may_end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "lock", is_held, may_end))
    process.start()
    is_held.wait()
    real_print = print

    def release(*words, **options):
        real_print(*words, **options)
        may_end.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", release)
        with file_lock(tmp_path / "lock", waiting="another process holds it"):
            pass
    process.join()
    assert capsys.readouterr().err == "another process holds it\n"


def test_hidden_yamls_are_nothing_and_those_that_cannot_be_read_are_named(tmp_path):
    contents = {"a.yaml": b"name:\tx\n", "b.yaml": "name: ä\n".encode("latin-1"), "c.yaml": b"", "d/e.yaml": b"- x\n"}
    contents |= {"._a.yaml": b"\0\5\x16\7", ".ipynb_checkpoints/a.yaml": b"x: 1", "good.yaml": b"name: x\n"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    *bad, good = sorted(yaml_files(tmp_path), key=lambda path: path.name == "good.yaml")
    assert {path.name for path in bad} == {"a.yaml", "b.yaml", "c.yaml", "e.yaml"}
    for path in bad:
        with pytest.raises(UserError) as error:
            read_yaml(path)
        assert str(error.value).startswith(f"{path} ")
        assert "\n" not in str(error.value)
    assert read_yaml(good) == {"name": "x"}
