"""A linear probe of a backbone, beside raw pixels: python scripts/probe_backbone.py task=eurosat backbone=vit_micro.

The words are those of run.py; backbone.weights=random probes the untrained net. --pixels probes the pixels instead.
"""

import json
import sys
from dataclasses import asdict

from hydra.errors import HydraException

from moppa.backbone.weights import load_weights
from moppa.data import cache
from moppa.pretrain.probe import features, pixels, probe
from moppa.utils.config import compose_config, instantiate
from moppa.utils.errors import UserError

PARTS = ("train800", "val200", "test")


def main() -> int:
    """Prints the probe as JSON."""
    overrides = [word for word in sys.argv[1:] if word != "--pixels"]
    try:
        config = compose_config(overrides)
        backbone, task, source = (instantiate(config, axis) for axis in ("backbone", "task", "data"))
        model = backbone.bare(drop_path=0.0)
        seen = backbone.preprocess(model)
        if file := backbone.weights_file():
            load_weights(model, file, untrained=backbone.untrained, unused=backbone.unused)
        look = {"size": seen.size, "interpolation": seen.interpolation}
        parts = {part: cache.load_split(task, part, source, **look) for part in PARTS}
    except (HydraException, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    of = pixels if "--pixels" in sys.argv else lambda images: features(model, images, seen)
    found = probe(
        {part: of(split.images) for part, split in parts.items()}, {part: one.labels for part, one in parts.items()}
    )
    print(json.dumps({"words": sys.argv[1:], **asdict(found)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
