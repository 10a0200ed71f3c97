"""Recomputes results/tables/ from results/records/ and prints the tables.

What README.md and docs/ quote from the tables of results/ and its folders is updated there, too.

Exit status: 0; 1 if nothing was written (with --strict also if a record had to be excluded); 3 if tables were written
but records had to be excluded, each of which is listed with the reason.
"""

import argparse
import sys

from rich.console import Console

from moppa.cli.errors import prints_errors
from moppa.report.build import list_excluded, no_records, write_tables
from moppa.report.render.readme import quoting_files, update_readme
from moppa.report.render.terminal import show
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, IS_CHECKOUT, ROOT, user_path

EXCLUDED = 3  # exit status


@prints_errors()
def main() -> int:
    """Prints every table and the paths of the files written, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=user_path, default=ROOT / "results", help="default: %(default)s")
    parser.add_argument("--strict", action="store_true", help="write nothing if a record has to be excluded")
    parser.add_argument("--quiet", action="store_true", help="print paths only")
    args = parser.parse_args()
    is_own_results = IS_CHECKOUT and args.results.resolve().is_relative_to(ROOT.resolve() / "results")
    output = write_tables(args.results, CONFIGS, strict=args.strict)
    if not output.written and not output.excluded:
        raise no_records(args.results)
    console = Console(soft_wrap=False)
    for table in output.tables if not args.quiet else []:
        show(table, console)
    if output.written:
        print(*output.written, sep="\n")
    print(list_excluded(output.excluded, args.results), end="", file=sys.stderr)
    if not (update_quotes() if is_own_results else True) or (output.excluded and not output.written):
        return 1
    return EXCLUDED if output.excluded else 0


def update_quotes() -> bool:
    """Updates what README.md and docs/ quote, prints their paths, and returns whether every quote has its number."""
    try:
        updated = [path for path in quoting_files(ROOT) if update_readme(path, ROOT / "results" / "tables")]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    for path in updated:
        print(path)
    return True


if __name__ == "__main__":
    sys.exit(main())
