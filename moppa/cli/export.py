"""Writes a finished cell for other libraries: moppa export RECORD OUT [--to timm|peft|onnx].

RECORD is results/records/.../seed0.json.

timm  weights of a plain timm model, if the method merges into them (lora, ssf, bitfit, ...). The file needs nothing of
      this project: timm.create_model(NAME, num_classes=N, img_size=S, checkpoint_path=OUT), values in its metadata.
peft  a folder with an adapter of HF peft, if peft has the method (LoRA, DoRA, LN tuning; every method whose update is
      low-rank is a LoRA): peft.PeftModel.from_pretrained(timm_model, OUT). The head is among `modules_to_save`.
onnx  the graph of any method: normalized images (batch, 3, size, size) -> logits. Normalization is in its metadata.
      Needs pip install 'moppa[onnx]'.

The logits of what is written are compared with those of the trained model.
"""

import argparse
import sys

from moppa.cli.errors import prints_errors
from moppa.export.formats import FORMATS, export
from moppa.utils.paths import user_path


@prints_errors()
def main() -> int:
    """Prints the path of the file or folder, or returns 1 if the cell cannot be exported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=user_path, help="the JSON file of a finished cell")
    parser.add_argument("out", type=user_path, help="what to write: .safetensors or .pth, a folder, or .onnx")
    parser.add_argument("--to", choices=FORMATS, default="timm", help="default: %(default)s")
    parser.add_argument("--weights", metavar="FILE", help="the backbone's checkpoint, if it has moved")
    args = parser.parse_args()
    export(args.record, args.out, to=args.to, weights=args.weights)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
