"""Packs records for the table of somebody else: moppa submit RESULTS PACK.zip --sender NAME.

Every record is verified first. The pack holds the records, their predictions, the tune records they name, and a
manifest: who sent it and when, the commits and versions, and the sha256 of every file. docs/submit.md says where to
send it. `moppa verify PACK.zip` checks it, `moppa accept PACK.zip` adds it to the tables.
"""

import argparse
import sys

from moppa.cli.errors import prints_errors
from moppa.record.pack import write_pack
from moppa.utils.paths import user_path


@prints_errors()
def main() -> int:
    """Prints the path of the pack, or returns 1 if nothing was packed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=user_path, help="a results folder")
    parser.add_argument("pack", type=user_path, help="the ZIP to write")
    parser.add_argument("--sender", required=True, help="the name that the table shows")
    parser.add_argument("--contact", default="", help="how to reach you: an address or a page")
    parser.add_argument("--only", metavar="SUITE/BACKBONE/TASK/METHOD", help="which records, as in 'vtab1k/*/*/lora'")
    parser.add_argument("--tensors", action="store_true", help="pack the kept tensors too, for --reevaluate")
    args = parser.parse_args()
    results = args.results.parent if args.results.name == "records" else args.results
    manifest = write_pack(
        results,
        args.pack,
        sender=args.sender,
        contact=args.contact,
        pattern=args.only,
        with_tensors=args.tensors,
    )
    count = sum(name.endswith(".json") for name in manifest["files"])
    print(f"{args.pack}: {count} records by {manifest['sender']}, commits {', '.join(manifest['commits'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
