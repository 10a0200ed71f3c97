"""Which cells have seeds of different machines, and what records say about the cost of their cells."""

from collections.abc import Mapping, Sequence

from moppa.report.load import ValidRecord

MIXED = "¶"


def mixed_cells(records_by_task: Mapping[str, Sequence[ValidRecord]]) -> list[str]:
    """Returns the tasks whose seeds differ in device, matmul backend or dtype, each with the values."""
    cells = []
    for task, records in records_by_task.items():
        columns = zip(*map(machine_kind, records), strict=True)
        values = [sorted(set(filter(None, column))) for column in columns]
        if differing := [" and ".join(of_name) for of_name in values if len(of_name) > 1]:
            cells.append(f"{task} ({', '.join(differing)})")
    return cells


def machine_kind(record: ValidRecord) -> tuple[str, str, str]:
    """Returns the kind of device, matmul backend and dtype; what the record does not say is empty."""
    device = record["device"]
    return str(device.get("type") or ""), str(device.get("matmul_backend") or ""), str(record["dtype"])


def alone_seconds(records: Sequence[ValidRecord]) -> list[float]:
    """Returns the training seconds of the cells of which the record says that they ran alone on their machine."""
    return [record["seconds"]["train"] for record in records if record.content.get("alone") is True]


def cell_memory(records: Sequence[ValidRecord]) -> list[int]:
    """Returns the peak memory in bytes of the cells whose record measures the cell and not the whole process."""
    return [record["peak_memory_bytes"] for record in records if record.content.get("peak_memory_scope") == "cell"]
