import os
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from moppa.utils.config import compose_config
from moppa.utils.matmul import set_matmul_backend

torch.set_num_threads(1)  # the models of the tests are too small for several threads
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in processes that tests start, too

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
TOY = [
    "task=eurosat",
    "task.fingerprint=null",
    "task.test_sha256=null",
    "task.num_test=120",
    "data._target_=tests.toy_source.ToySource",
    "data.name=toy",
    "backbone=test_vit",
    "train.epochs=2",
]


def config_of(*overrides: str) -> DictConfig:
    """Returns the config that `python run.py OVERRIDES` composes."""
    return compose_config(overrides)


@pytest.fixture
def toy(tmp_path):
    """Overrides of a cell that takes seconds, on generated images, with results and cache in the test's own folder."""
    return [*TOY, f"run.results={tmp_path / 'results'}", f"data.cache={tmp_path / 'cache'}"]


@pytest.fixture(autouse=True)
def torch_matmul_backend():
    """Starts every test with torch's matrix products, whatever the test before it chose."""
    set_matmul_backend("torch")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights beside the project, which developers and CI have."""
    folder = Path(os.environ.get("MOPPA_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the real images and weights of {folder}, which users do not have")
    return folder
