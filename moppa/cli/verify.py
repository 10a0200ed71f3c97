"""Verifies records: moppa verify [RESULTS] [--reevaluate]. RESULTS is a results folder or the records folder in it.

Checks that every record agrees with itself, its path, its predictions and its kept tensors; that the tune records it
names say what it states; that no seed is a copy of another; that all records of a task have the same labels; that the
number of trained parameters is the one that the config gives; and that the commit exists in this checkout. Warns if the
seeds of a cell were computed on different kinds of devices.

--reevaluate loads the trained tensors if they were kept, evaluates them again, and compares the predictions. It needs
the backbone's weights and the images; nothing is downloaded. If they are not where the records say:
moppa verify results --reevaluate data.dir=DIR data.cache=DIR backbone.weights=FILE

Exit status: 0 if there is nothing wrong, 1 otherwise.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from moppa.record.recount import find_other_count
from moppa.record.schema import read_record
from moppa.record.verify import Finding, verify_records
from moppa.utils.errors import UserError
from moppa.utils.paths import ROOT, user_path
from moppa.utils.provenance import has_commit


def main() -> int:
    """Prints one line for each problem, and how many records were verified."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=user_path, default=ROOT / "results", help="default: %(default)s")
    parser.add_argument("--no-recount", action="store_true", help="do not build models to count their parameters")
    parser.add_argument("--reevaluate", nargs="*", metavar="NAME=VALUE", help="evaluate kept tensors again")
    args = parser.parse_args()
    results = args.results.parent if args.results.name == "records" else args.results
    root = results / "records"
    paths = sorted(root.rglob("seed*.json"))
    if not paths:
        print(f"error: there are no records in {root}", file=sys.stderr)
        return 1
    verification = verify_records(results)
    findings = list(verification.findings)
    found = {finding.path for finding in findings}
    sound = [path for path in paths if path.relative_to(root).as_posix() not in found]
    for path in sound:
        problems = deep_problems(path, not args.no_recount)
        findings += [Finding(path=path.relative_to(root).as_posix(), problem=problem) for problem in problems]
    if args.reevaluate is not None:
        try:
            findings += reevaluate_all(sound, root, dict(parse_setting(text) for text in args.reevaluate))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    for warning in verification.warnings:
        print(f"warning: {root / warning.path}: {warning.problem}")
    for finding in findings:
        print(f"{root / finding.path}: {finding.problem}")
    bad = {finding.path for finding in findings}
    print(f"{len(paths) - len(bad)} of {len(paths)} records verified in {root}")
    return 1 if findings else 0


def parse_setting(text: str) -> tuple[str, str]:
    """Returns the name and the value of NAME=VALUE.

    Raises:
        UserError: if there is no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--reevaluate {text}: expected NAME=VALUE, for example data.dir=DIR; give RESULTS before it")
    return name, value


def reevaluate_all(paths: list[Path], root: Path, settings: Mapping[str, str]) -> list[Finding]:
    """Evaluates kept tensors again, prints how many and why others could not be, and returns the problems."""
    from moppa.record.reevaluate import NotEvaluatedError, reevaluate

    findings, reasons = [], dict[str, int]()
    for path in paths:
        try:
            problem = reevaluate(path, settings)
        except NotEvaluatedError as error:
            reasons[str(error)] = reasons.get(str(error), 0) + 1
            continue
        if problem:
            findings.append(Finding(path=path.relative_to(root).as_posix(), problem=problem))
    for reason, count in reasons.items():
        print(f"not evaluated again: {count} {'record' if count == 1 else 'records'}: {reason}")
    print(f"{len(paths) - sum(reasons.values())} of {len(paths)} records evaluated again")
    return findings


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
