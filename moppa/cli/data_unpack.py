"""Verifies archives of `moppa data pack` and installs them in the cache: moppa data unpack DIR [data.cache=DIR].

DIR is a path, http(s)://... or hf://datasets/USER/REPO. Every archive must have the sha256 of the manifest. Splits that
are in the cache already stay. Then `moppa data check` compares names and pixels with the official digests.
"""

import sys

from hydra.errors import HydraException

from moppa.cli.errors import prints_errors
from moppa.data.copies import MANIFEST, archives_at, install
from moppa.data.disk_space import check_free_space
from moppa.data.prepare import is_prepared, preparation_lock
from moppa.utils.config import compose_config
from moppa.utils.errors import UserError
from moppa.utils.network import set_connect_timeout
from moppa.utils.paths import user_path

SETTING = "DIR"


@prints_errors(HydraException)
def main() -> int:
    """Prints what was installed; returns 1 if an archive is damaged or cannot be copied."""
    words = sys.argv[1:]
    places = [word for word in words if "=" not in word.partition("://")[0]]
    if {"-h", "--help"} & set(words) or len(places) != 1:
        print(__doc__)
        return 0 if {"-h", "--help"} & set(words) else 2
    config = compose_config(["task=eurosat", *(word for word in words if word not in places)])
    set_connect_timeout(config.run.connect_timeout)
    return unpack(places[0], config.data.cache)


def unpack(place: str, cache: str) -> int:
    """Installs all archives of a place that the cache lacks, and prints each."""
    archives = archives_at(SETTING, place)
    if not archives:
        raise UserError(f"{SETTING}={place} has no {MANIFEST} with archives; write one with: moppa data pack")
    folders = {name: user_path(cache) / name.removesuffix(".tar") for name in archives}
    absent = [name for name, folder in folders.items() if not is_prepared(folder)]
    check_free_space("unpacking", 2 * sum(archives[name]["bytes"] for name in absent), user_path(cache))
    for name, folder in folders.items():
        if name not in absent:
            print(f"{name}: in the cache already")
            continue
        with preparation_lock(folder):
            if not is_prepared(folder):
                install(SETTING, place, name, archives[name], folder)
        print(f"{name}: installed in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
