import os
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from moppa.utils.config import compose_config
from moppa.utils.matmul import set_matmul_backend

torch.set_num_threads(1)  # the models of the tests are too small to share
os.environ.setdefault("OMP_NUM_THREADS", "1")  # nor do the processes that they start wait for one another's cores

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
TOY = [
    "task=eurosat",
    "task.fingerprint=null",
    "task.num_test=120",
    "data._target_=tests.toy_source.ToySource",
    "data.lineage=toy",
    "backbone=test_vit",
    "train.epochs=2",
]


def config_of(*overrides: str) -> DictConfig:
    """The composed config of `python run.py OVERRIDES`."""
    return compose_config(overrides)


@pytest.fixture
def toy(tmp_path):
    """Overrides of a cell of seconds on drawn images, with its results and store in the test's own folder."""
    return [*TOY, f"run.results={tmp_path / 'results'}", f"data.cache={tmp_path / 'store'}"]


@pytest.fixture(autouse=True)
def torchs_products():
    """A test starts with torch's products, whatever the one before it chose."""
    set_matmul_backend("torch")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights that stands beside the project here and in CI."""
    folder = Path(os.environ.get("MOPPA_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the real images and weights of {folder}, which users do not have")
    return folder
