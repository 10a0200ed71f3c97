"""Finished cells as input of another one, named by their records: the trained tensors that a method starts from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from moppa.record.schema import read_record_with_sha256
from moppa.record.trained_file import read_trained
from moppa.utils.errors import SettingError
from moppa.utils.paths import user_path

MINIMUM = 12  # hex digits of a digest


def finished_tensors(
    words: Sequence[str], *, config: Mapping[str, Any], weights_sha256: str
) -> dict[str, dict[str, Tensor]]:
    """Returns the trained tensors of finished cells by word, each "PATH@SHA256" of a record. The digest is in the key.

    A cell of the same task as `config` is left out, so that one list serves a whole suite.

    Raises:
        SettingError: if a record is not the one of its digest, or of another backbone.
        UserError: if a record or its tensors are missing or have changed.
    """
    tensors = {}
    for word in words:
        name, _, digest = word.rpartition("@")
        path = user_path(Path(name or word))
        record, sha256 = read_record_with_sha256(path)
        if not name or len(digest) < MINIMUM or not sha256.startswith(digest):
            raise SettingError("records", f": name this record as {name or word}@{sha256[:MINIMUM]}, not as {word}")
        if record["weights"]["sha256"] != weights_sha256:
            raise SettingError(
                "records",
                f": {name} is of backbone={record['backbone']} with weights {record['weights']['sha256'][:MINIMUM]}, "
                f"and this cell is of {config['backbone']['name']} with {weights_sha256[:MINIMUM]}: name cells of one "
                f"backbone",
            )
        if (record["suite"], record["task"]) != (config["task"]["suite"], config["task"]["name"]):
            tensors[word] = read_trained(path, record)
    return tensors
