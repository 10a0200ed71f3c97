"""Settings that are added to the configs leave the keys of older records as they are."""

import copy

import pytest

from moppa.record import schema
from moppa.record.schema import key_of, read_record
from tests.factories import record_of, write_record_file


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(schema.ADDED, "train.decay_1d", True)
    monkeypatch.setitem(schema.ADDED_TO_METHODS, "lora", {"share_down": False})


def config_with(train: dict, attach: dict, method: str = "lora") -> dict:
    return {"train": {"lr": 1e-3, **train}, "method": {"name": method, "attach": {"rank": 8, **attach}}}


@pytest.mark.usefixtures("added")
def test_only_another_value_of_an_added_setting_changes_the_key():
    old = key_of(config_with({}, {}), "w", "float32")
    assert key_of(config_with({"decay_1d": True}, {"share_down": False}), "w", "float32") == old
    others = [
        config_with({"decay_1d": False}, {}),
        config_with({}, {"share_down": True}),
        config_with({}, {"share_down": False}, method="other"),
    ]
    assert len({old, *(key_of(config, "w", "float32") for config in others)}) == 4


@pytest.mark.usefixtures("added")
def test_an_older_record_is_read_with_the_added_settings(tmp_path):
    config = read_record(write_record_file(tmp_path, "method=lora", "task=eurosat"))["config"]
    assert config["train"]["decay_1d"] is True
    assert config["method"]["attach"]["share_down"] is False


@pytest.mark.parametrize(("backbone", "averages"), [("vit_b16_in21k", False), ("vit_b16_mae", True)])
def test_prompts_that_no_average_reads_leave_the_key_as_it_is(backbone, averages):
    config = record_of("method=vpt_deep", "task=eurosat", f"backbone={backbone}")["config"]
    old, other = copy.deepcopy(config), copy.deepcopy(config)
    assert old["method"]["attach"].pop("pool_prompts")
    other["method"]["attach"]["pool_prompts"] = False
    keys = [key_of(one, "w", "float32") for one in (old, config, other)]
    assert keys[0] == keys[2 if averages else 1]
    assert keys[1] != keys[2]
