"""Exports a finished cell as an ONNX graph, whatever its method is."""

from pathlib import Path

import torch

from moppa.export.facts import check_logits, example_images, metadata_of
from moppa.peft.inject import merge
from moppa.record.trained import Finished
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError


def check_onnx_path(out: Path) -> None:
    """Raises `UserError` if the suffix is not that of ONNX."""
    if out.suffix != ".onnx":
        raise UserError(f"{out}: the file of an ONNX graph ends in .onnx; choose such a name")


def write_onnx(finished: Finished, out: Path) -> None:
    """Writes a graph from normalized `images` (batch, 3, size, size) to `logits`, and compares it in onnxruntime."""
    import onnxruntime  # an optional dependency, as is onnxscript, which torch's exporter imports
    import onnxscript  # noqa: F401 - so that its absence is named

    model, images = finished.model, example_images(finished)
    with torch.no_grad():
        expected = merge(model)(images)
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    for name, value in metadata_of(finished).items():
        graph.metadata_props.add(key=name, value=value)
    with atomic_write(out) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        session = onnxruntime.InferenceSession(temporary)
        for batch in (images, images[:1]):
            [logits] = session.run(["logits"], {"images": batch.numpy()})
            check_logits(torch.from_numpy(logits), expected[: len(batch)])
