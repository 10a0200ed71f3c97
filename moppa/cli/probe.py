"""Fits a linear probe on the features of a backbone: moppa probe task=eurosat backbone=vit_micro.

The arguments are the overrides of `moppa run`. backbone.weights=random probes the untrained network; --pixels probes
raw pixels instead of features.
"""

import json
import sys
from dataclasses import asdict

from hydra.errors import HydraException

from moppa.cli.errors import prints_errors
from moppa.data.cache import load_split
from moppa.data.images import ImageFormat
from moppa.data.task import SPLITS
from moppa.pretrain.probe import extract_features, fit_probe, flatten_pixels
from moppa.utils.config import compose_config, instantiate
from moppa.utils.network import set_connect_timeout


@prints_errors(HydraException)
def main() -> int:
    """Prints the result of the probe as JSON."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    config = compose_config([argument for argument in arguments if argument != "--pixels"])
    set_connect_timeout(config.run.connect_timeout)
    backbone, task, source = (instantiate(config, axis) for axis in ("backbone", "task", "data"))
    model = backbone.load(drop_path=0.0)
    preprocess = backbone.preprocess(model)
    splits = {
        name: load_split(task, name, source, ImageFormat(preprocess.size, preprocess.interpolation)) for name in SPLITS
    }
    features = {
        name: flatten_pixels(split.images)
        if "--pixels" in arguments
        else extract_features(model, split.images, preprocess)
        for name, split in splits.items()
    }
    result = fit_probe(features, {name: split.labels for name, split in splits.items()})
    print(json.dumps({"overrides": arguments, **asdict(result)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
