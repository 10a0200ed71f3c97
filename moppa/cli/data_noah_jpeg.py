"""Encodes a task's lossless images as NOAH's JPEG: moppa data noah-jpeg task=eurosat data.dir=DIR --out OUT.

Writes JPEG of quality 75 with halved chroma (4:2:0) in NOAH's folder layout. The same cell with `data=tfds` and with
`data=noah data.dir=OUT` then measures what the lineage costs. Takes overrides of `moppa run` for `task` and `data`.
"""

import argparse
import sys

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moppa.cli.errors import prints_errors
from moppa.data.noah_jpeg import write_folder
from moppa.data.task import SPLITS
from moppa.utils.config import compose_config, instantiate
from moppa.utils.network import set_connect_timeout
from moppa.utils.paths import CONFIGS, user_path


@prints_errors(HydraException, OmegaConfBaseException)
def main() -> int:
    """Prints the path of the folder; returns 1 if it cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="task=NAME data.dir=DIR")
    parser.add_argument("--out", type=user_path, required=True, help="the task's folder is written in this folder")
    parser.add_argument("--without-test", action="store_true", help="leave out the test set: enough for protocol=tune")
    args = parser.parse_intermixed_args()
    splits = [split for split in SPLITS if not (args.without_test and split == "test")]
    config = compose_config(args.overrides)
    set_connect_timeout(config.run.connect_timeout)
    task = instantiate(config, "task")
    folders = OmegaConf.load(CONFIGS / "data" / "noah.yaml").folders
    folder = user_path(args.out) / folders.get(task.name, task.name)
    write_folder(folder, task, instantiate(config, "data"), splits)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
