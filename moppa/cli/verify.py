"""Verifies records: moppa verify [RESULTS]. RESULTS is a results folder or the records folder in it.

Checks that every record agrees with itself, its path, its predictions and its kept tensors; that the tune records it
names say what it states; that no seed is a copy of another; that all records of a task have the same labels; that the
number of trained parameters is the one that the config gives; and that the commit exists in this checkout.

Exit status: 0 if there is nothing wrong, 1 otherwise.
"""

import argparse
import sys
from pathlib import Path

from moppa.record.recount import find_other_count
from moppa.record.schema import read_record
from moppa.record.verify import Finding, verify_records
from moppa.utils.errors import UserError
from moppa.utils.paths import ROOT
from moppa.utils.provenance import has_commit


def main() -> int:
    """Prints one line for each problem, and how many records were verified."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=ROOT / "results", help="default: %(default)s")
    parser.add_argument("--no-recount", action="store_true", help="do not build models to count their parameters")
    args = parser.parse_args()
    results = args.results.parent if args.results.name == "records" else args.results
    paths = sorted((results / "records").rglob("seed*.json"))
    if not paths:
        print(f"error: there are no records in {results / 'records'}", file=sys.stderr)
        return 1
    findings = verify_records(results)
    found = {finding.path for finding in findings}
    for path in paths:
        relative = path.relative_to(results / "records").as_posix()
        if relative in found:
            continue
        findings += [Finding(path=relative, problem=problem) for problem in deep_problems(path, not args.no_recount)]
    for finding in findings:
        print(f"{results / 'records' / finding.path}: {finding.problem}")
    bad = {finding.path for finding in findings}
    print(f"{len(paths) - len(bad)} of {len(paths)} records verified in {results / 'records'}")
    return 1 if findings else 0


def deep_problems(path: Path, counts_parameters: bool) -> list[str]:
    """Returns what is wrong with a record as far as this checkout and its models can tell."""
    record = read_record(path)
    problems = []
    if counts_parameters:
        try:
            problems.append(find_other_count(record))
        except UserError as error:
            problems.append(str(error))
    if (commit := record["git"]["commit"]) and has_commit(commit) is False:
        problems.append(f"its commit {commit[:12]} is not in this repository")
    return [problem for problem in problems if problem]


if __name__ == "__main__":
    sys.exit(main())
