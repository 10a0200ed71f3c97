"""Export of a finished cell as an ONNX graph."""

import numpy as np
import pytest
import torch

from moppa.export.formats import export
from moppa.export.onnx_model import check_onnx_path
from moppa.record.schema import read_record
from moppa.record.trained import load_finished
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import config_of


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "moppa", "vpt_deep"])
def test_onnxruntime_gives_the_logits_for_any_number_of_images(method, toy, tmp_path, unchecked):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = run_cell(config_of(*toy, f"method={method}", "train.lr=1e-2", "train.epochs=1")).record
    export(path, tmp_path / "model.onnx", to="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert (metadata["timm"], metadata["method"], metadata["image_size"]) == ("test_vit.r160_in1k", method, "32")
    assert [float(value) for value in metadata["mean"].split()] == read_record(path)["preprocess"]["mean"]
    model = load_finished(path).model
    for count in (1, 5):
        images = np.random.default_rng(0).normal(size=(count, 3, 32, 32)).astype(np.float32)
        [logits] = session.run(None, {"images": images})
        with torch.no_grad():
            expected = model(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=1e-3)
    assert list(tmp_path.glob("*.onnx*")) == [tmp_path / "model.onnx"]


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"out\.pth: the file of an ONNX graph ends in \.onnx"):
        check_onnx_path(tmp_path / "out.pth")
