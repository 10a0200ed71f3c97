"""Records of the first format: how they are recognized, and how their configs read today.

The first format counted Python paths in a cell's key (`_target_`, the module of a drawing function) and had other names
for some settings. `upgraded` translates such a record; `moppa.record.rekey` does so once for a folder of records.
"""

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from moppa.utils.errors import UserError
from moppa.utils.renamed import SETTINGS, TARGETS, VALUES

NEUTRAL = {  # what the first format left out of a key, by group
    "": {"seed", "run", "logger", "hparams"},
    "data": {"dir", "store", "download"},
    "task": {"title", "column"},
    "backbone": {"weights"},
}


def is_legacy(record: Mapping[str, Any]) -> bool:
    """Returns whether a record is of the first format, which called the image cache a store."""
    try:
        return "store" in record["config"]["data"]
    except (KeyError, TypeError):
        return False


def upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record of the first format with today's config. Its key is the caller's to set.

    Raises:
        UserError: if the record's key is not the one that its config and weights gave in the first format.
    """
    key = legacy_key(record["config"], record["weights"]["sha256"])
    if key != record["key"]:
        raise UserError(
            f"its key is {record['key']}, its config and weights give {key}; delete it and run its cell again"
        )
    protocol = VALUES["protocol"].get(record["protocol"], record["protocol"])
    return {**record, "config": upgraded_config(record["config"]), "protocol": protocol}


def legacy_key(config: Mapping[str, Any], weights_sha256: str) -> str:
    """Returns the key that a config and weights gave in the first format."""
    counted = {
        group: {name: value for name, value in node.items() if name not in NEUTRAL[group]} if group in NEUTRAL else node
        for group, node in config.items()
        if group not in NEUTRAL[""]
    }
    text = json.dumps({"config": counted, "weights": weights_sha256}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def upgraded_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config of the first format with today's Python paths, setting names and values."""
    new = copy.deepcopy(dict(config))
    new["data"].pop("lineage", None)  # derived from the source
    new["data"]["name"] = new["data"]["_target_"].split(".")[-2]  # the module: tfds, noah, folder, ...
    rename_targets(new)
    builder = new.get("task", {}).get("builder")
    if isinstance(builder, str) and builder.startswith("moppa.mini."):
        new["task"]["builder"] = builder.replace("moppa.mini.", "moppa.data.mini.", 1)
    for old, name in SETTINGS.items():
        group, _, entry = old.partition(".")
        if entry in new.get(group, {}):
            new[group][name.partition(".")[2]] = new[group].pop(entry)
    if isinstance(skipped := new["run"].get("skip_unused"), list):  # the oldest records have true here
        new["run"]["skip_unused"] = [VALUES["run.skip_unused"].get(name, name) for name in skipped]
    new["protocol"]["name"] = VALUES["protocol"].get(new["protocol"]["name"], new["protocol"]["name"])
    return new


def rename_targets(config: dict[str, Any]) -> None:
    """Replaces old Python paths in every `_target_` of a config, in place."""
    for name, value in config.items():
        if isinstance(value, dict):
            rename_targets(value)
        elif name == "_target_":
            config[name] = TARGETS.get(value, value)


def with_renamed_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record with today's names of the fields that had others: the learning rate and the matmul backend."""
    new = dict(record)
    if isinstance(new["curve"], list):
        new["curve"] = [
            {("lr" if name == "rate" else name): value for name, value in epoch.items()}
            if isinstance(epoch, dict) and "rate" in epoch else epoch
            for epoch in new["curve"]
        ]  # fmt: skip
    if isinstance(new["device"], Mapping):
        new["device"] = {("matmul_backend" if n == "products" else n): value for n, value in new["device"].items()}
    return new
