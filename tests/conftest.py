import copy
import functools
import gc
import os
import re
from pathlib import Path

import hypothesis  # noqa: F401  # pytest imports it late, and it does not find its objects after gc.freeze
import jaxtyping
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

import moppa.backbone.lean_timm  # noqa: F401 - before timm, as in the product
from moppa.utils.config import compose_config
from moppa.utils.matmul import set_matmul_backend
from moppa.utils.renamed import check_overrides

torch.set_num_threads(1)  # the models of the tests are too small for several threads
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in processes that tests start, too
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which some modules do

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
QUICK_METHODS = {"adapter", "bitfit", "linear", "lora", "moppa", "ssf", "vpt_deep"}  # one of each kind of insertion
FEW_IMAGES = ("+task.num_train=160", "+task.num_val=40")  # in place of 800 and 200, to save time
TOY = [
    "task=eurosat",
    "task.fingerprint=null",
    "task.test_sha256=null",
    *FEW_IMAGES,
    "task.num_test=120",
    "data._target_=tests.toy_source.ToySource",
    "data.name=toy",
    "backbone=test_vit",
    "train.epochs=2",
]


read_yaml, yamls = ConfigRepository.load_config, {}


def load_yaml(repository, config_path):
    """Returns a YAML as Hydra reads it, but parses it only once, because that is half of a composition."""
    sources = tuple(source.path for source in repository.get_sources())
    files = (Path(source, config_path).with_suffix(".yaml") for source in sources)
    key = sources, config_path, tuple(file.stat().st_mtime_ns for file in files if file.is_file())
    if key not in yamls:
        yamls[key] = read_yaml(repository, config_path)
    return copy.deepcopy(yamls[key])


ConfigRepository.load_config = load_yaml
PLAIN_VALUE = re.compile(r"(seed|[\w.]+\.\w+)=[\w./:-]+")  # sets one value, selects no YAML
composed = functools.cache(compose_config)


def config_of(*overrides: str) -> DictConfig:
    """Returns the config that `python run.py OVERRIDES` composes. A selection of YAMLs is composed only once."""
    check_overrides(overrides)
    values = [override for override in overrides if PLAIN_VALUE.fullmatch(override)]
    config = copy.deepcopy(composed(tuple(override for override in overrides if override not in values)))
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), config)
    return config


def mostly_slow(names, quick):
    """Returns the parameters of a test that is slow for all names but some."""
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


def pytest_collection_finish():
    """Keeps the garbage collector from visiting modules and tests again, because every cell starts it."""
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()


@pytest.fixture
def toy(tmp_path):
    """Overrides of a cell that takes seconds, on generated images, with results and cache in the test's own folder."""
    return [*TOY, f"run.results={tmp_path / 'results'}", f"data.cache={tmp_path / 'cache'}"]


@pytest.fixture(autouse=True)
def torch_matmul_backend():
    """Starts every test with torch's matrix products, whatever the test before it chose."""
    set_matmul_backend("torch")


@pytest.fixture
def unchecked():
    """Leaves types unchecked in a test that repeats calls of another test, which halves its time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights beside the project, which developers and CI have."""
    folder = Path(os.environ.get("MOPPA_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the real images and weights of {folder}, which users do not have")
    return folder
