"""Writes a finished cell as plain timm weights: python scripts/export.py results/records/.../seed0.json FILE.

Where the method folds into the weights (lora, ssf, bitfit, ...), the file needs nothing of this project:
`timm.create_model(NAME, num_classes=N, img_size=S, checkpoint_path="FILE")`; its metadata hold the three.
"""

import argparse
import sys
from pathlib import Path

from moppa.record.export import export
from moppa.utils.errors import UserError


def main() -> int:
    """Prints the path of the file; 1 where the cell cannot be exported."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", help="the backbone's checkpoint, where it moved since")
    asked = parser.parse_args()
    try:
        export(asked.record, asked.out, weights=asked.weights)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
