"""The formats of `moppa export --to`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moppa.export.onnx_model import check_onnx_path, write_onnx
from moppa.export.peft_adapter import check_peft_path, write_peft
from moppa.export.timm_weights import check_timm_path, write_timm
from moppa.record.trained import Finished, load_finished


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a finished cell is written. `check` raises `UserError` for a path that the format cannot have."""

    check: Callable[[Path], None]
    write: Callable[[Finished, Path], None]


FORMATS = {
    "timm": Format(check=check_timm_path, write=write_timm),
    "peft": Format(check=check_peft_path, write=write_peft),
    "onnx": Format(check=check_onnx_path, write=write_onnx),
}


def export(path: Path, out: Path, *, to: str = "timm", weights: str | None = None) -> None:
    """Writes the trained model of a record's cell for another library.

    `weights` is the backbone's checkpoint, if it is no longer at the path that the record names.

    Raises:
        UserError: if the path is not one of that format, the trained tensors were not kept or have changed, the
            backbone's weights are not those of the record, or the format cannot hold the method.
    """
    target = FORMATS[to]
    target.check(out)
    target.write(load_finished(path, weights=weights), out)
