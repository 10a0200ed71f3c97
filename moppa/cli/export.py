"""Writes a finished cell as plain timm weights: moppa export results/records/.../seed0.json FILE.

The method must merge into the weights (lora, ssf, bitfit, ...). The file then needs nothing of this project:
`timm.create_model(NAME, num_classes=N, img_size=S, checkpoint_path=FILE)`, with the three values from its metadata.
"""

import argparse
import sys

from moppa.record.export import export
from moppa.utils.errors import UserError
from moppa.utils.paths import user_path


def main() -> int:
    """Prints the path of the file, or returns 1 if the cell cannot be exported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=user_path, help="the JSON file of a finished cell")
    parser.add_argument("out", type=user_path, help="the file to write: .safetensors, or .pth")
    parser.add_argument("--weights", metavar="FILE", help="the backbone's checkpoint, if it has moved")
    args = parser.parse_args()
    try:
        export(args.record, args.out, weights=args.weights)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
