"""Loggers get the curve and the final numbers; a failing logger does not fail the cell."""

import json

import pytest

from moppa.record.schema import read_record
from moppa.train.loggers import SafeLogger, TensorBoardLogger, WandbLogger, automatic_mode, is_logged_in
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import config_of, mostly_slow


class Failing:
    """Raises at one of its calls."""

    def __init__(self, at):
        self.at, self.calls = at, []

    def call(self, name):
        self.calls.append(name)
        if name == self.at:
            raise RuntimeError("no network")

    def start(self, **_):
        self.call("start")

    def log(self, *_, **__):
        self.call("log")

    def finish(self, *_):
        self.call("finish")


def record_in(folder):
    [path] = (folder / "results" / "records").rglob("seed0.json")
    return read_record(path)


@pytest.mark.parametrize("at", mostly_slow(["start", "log", "finish"], {"log"}))
def test_a_failing_logger_is_reported_once_and_disabled(at, toy, tmp_path, monkeypatch, capsys):
    failing = Failing(at)
    monkeypatch.setattr(
        "moppa.record.parts.instantiate",
        lambda config, path, **kwargs: failing if path == "logger" else instantiate(config, path, **kwargs),
    )
    run_cell(config_of(*toy, "method=linear"))
    assert record_in(tmp_path)["total"] == 120
    assert capsys.readouterr().err.count("Failing failed and is disabled") == 1
    assert failing.calls[-1] == at
    assert failing.calls.count(at) == 1
    assert not list(tmp_path.rglob("*.failed"))


def test_wandb_gets_one_offline_run_with_config_and_final_numbers(toy, tmp_path, monkeypatch):
    for name, value in {"WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    settings = {}
    import wandb

    class Run:
        def __init__(self):
            self.summary, self.logged, self.is_finished = {}, [], False

        def log(self, values, step):
            self.logged.append(values)

        def finish(self):
            self.is_finished = True

    wandb_run = Run()
    monkeypatch.setattr(wandb, "init", lambda **kwargs: settings.update(kwargs) or wandb_run)
    run_cell(config_of(*toy, "method=linear", "logger=wandb"))
    record = record_in(tmp_path)
    assert (settings["mode"], settings["group"], wandb_run.is_finished) == ("offline", "cells", True)
    assert settings["name"] == f"test_vit linear eurosat seed 0 {record['key']}"
    assert settings["config"]["method"]["name"] == "linear"
    assert [values["loss"] for values in wandb_run.logged] == [epoch["loss"] for epoch in record["curve"]]
    assert wandb_run.summary["accuracy"] == record["correct"] / record["total"]


def test_a_user_with_a_key_in_the_environment_or_the_netrc_file_is_logged_in(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not is_logged_in()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key")
    (tmp_path / "netrc").chmod(0o600)
    assert is_logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not is_logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert is_logged_in()
    assert automatic_mode() == "online"
    for name, value in {"WANDB_MODE": "offline", "WANDB_DISABLED": "true"}.items():
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            assert automatic_mode() is None  # wandb reads it


def test_a_tilde_in_the_folder_of_a_logger_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert WandbLogger(project="moppa", mode="auto", dir="~/logs").dir == tmp_path / "logs"
    assert TensorBoardLogger(dir="~/logs").dir == tmp_path / "logs"


@pytest.mark.slow
def test_wandb_itself_runs_offline(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_cell(config_of(*toy, "method=linear", "logger=wandb", "logger.mode=offline"))
    assert len(list((tmp_path / "results" / "wandb").glob("offline-run-*"))) == 1


def test_tensorboard_gets_curve_config_and_final_numbers(toy, tmp_path):
    pytest.importorskip("tensorboard")
    run_cell(config_of(*toy, "method=linear", "logger=tensorboard"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [folder] = {path.parent for path in (tmp_path / "results" / "tensorboard").rglob("events.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    record = record_in(tmp_path)
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([epoch["loss"] for epoch in record["curve"]], rel=1e-6)
    assert events.Scalars("final/correct")[0].value == record["correct"]
    assert record["key"] in folder.name
    assert json.dumps("linear") in str(events.Tensors("config/text_summary")[0].tensor_proto)[:10000].replace("\\", "")


def test_an_unknown_wandb_mode_is_an_error():
    with pytest.raises(UserError, match=r"logger\.mode='live': it must be one of auto, offline, online, disabled"):
        instantiate(config_of("task=dtd", "logger=wandb", "logger.mode=live"), "logger")
    assert isinstance(SafeLogger(Failing("start")).logger, Failing)
