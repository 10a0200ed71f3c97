"""What a record claims about its protocol and its task, compared with what these mean in this version."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from moppa.data.task import Protocol
from moppa.record.task_changes import recorded_task_changes
from moppa.utils.errors import UserError

REPEATED = "evaluation/"  # the diagnostics of a protocol that evaluates during training start so


def find_false_protocol(record: Mapping[str, Any], arrays: Collection[str]) -> str:
    """Returns how a record contradicts the protocol that it names, or an empty string.

    `arrays` are the names of the arrays in its prediction file.
    """
    settings = {name: value for name, value in record["config"]["protocol"].items() if name != "_target_"}
    try:
        protocol = Protocol(**settings)
    except (UserError, TypeError) as error:
        return f"its protocol is not one of this version: {error}"
    has_evaluations = "best_on_test" in record or any(name.startswith(REPEATED) for name in arrays)
    if protocol.every is None and has_evaluations:
        return f"it was evaluated during the training, and protocol {protocol.name} evaluates once, after it"
    return ""


def find_false_task(record: Mapping[str, Any], configs: Path) -> str:
    """Returns in which settings the task of a record differs from its YAML, unless the record says so itself."""
    changes = recorded_task_changes(record, configs)
    if not changes or record["split"]["verdict"] == "changed":
        return ""
    return f"its task differs from its YAML in {', '.join(changes)}, and its split check does not say so"
