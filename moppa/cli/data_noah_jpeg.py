"""Re-encodes a task's lossless images the NOAH way: python scripts/as_noah_jpeg.py task=eurosat data.dir=DIR --out OUT.

JPEG at quality 75 with halved chroma (4:2:0), in NOAH's layout of folders; the same cell run with `data=tfds` and with
`data=noah data.dir=OUT` then says what the lineage costs. Takes overrides as run.py does, of `task` and `data`.
"""

import argparse
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moppa.data.noah_jpeg import write_folder
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS


def main() -> int:
    """Prints the path of the folder; 1 where it cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="+", metavar="task=NAME data.dir=DIR")
    parser.add_argument("--out", type=Path, required=True, help="the task's folder is made in it")
    parser.add_argument("--without-test", action="store_true", help="all that protocol=tune needs")
    asked = parser.parse_intermixed_args()
    parts = ["train800", "val200"] if asked.without_test else ["train800", "val200", "test"]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
            config = compose("cell", overrides=asked.overrides)
        task = instantiate(config, "task")
        folders = OmegaConf.load(CONFIGS / "data" / "noah.yaml").folders
        folder = asked.out.expanduser() / folders.get(task.name, task.name)
        write_folder(folder, task, instantiate(config, "data"), parts)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
