"""The caption of a table and the sentences below it: protocol, seeds, data, budgets, code, and what the marks mean."""

from collections.abc import Mapping, Sequence

from moppa.report import significance
from moppa.report.budget import Budget, budget_fact
from moppa.report.load import ValidRecord, digest_records

ONCE = "the test set is evaluated once, after the last epoch"
PROTOCOLS = {
    "final": f"models are trained on {{images}}, and {ONCE}",
    "train_only": f"models are trained on the training images without those for validation, and {ONCE}",
    "few_shot": f"models are trained on {{shots}} per class, which the seed draws, and {ONCE}",
    "best_on_test": "the test set is evaluated many times, so this is a diagnostic and not a result",
    "tune": "models are trained on train800 and evaluated on val200 after the last epoch, never on the test set",
}
SPLIT_CHECKS = {  # what the split checks mean that are not plain
    "official start": "official start: the first 1000 images are those of VTAB-1K, and no digest proves the others",
    "no digest": "no digest: the split follows its published rule, and nothing proves that it is the published one",
}
TEST = (
    f"Bold is best and underlined is second: the row exceeds every row below it in the column, by a t test over test "
    f"images and seeds at {significance.ALPHA:.0%}, corrected for the columns by Holm's method. A column with "
    f"a cell of fewer than {significance.MIN_SEEDS} seeds or with unequal budgets has no marks"
)
TRIED = (
    "Settings tried: of so many settings, the one with the best accuracy on val200 was taken; given means that no "
    "search is recorded"
)


def table_caption(records: Sequence[ValidRecord], protocol: str) -> str:
    """Returns the two sentences that a reader needs: what the numbers are, and over which seeds."""
    seeds = ", ".join(map(str, sorted({record["seed"] for record in records})))
    meaning = protocol_meaning(records, protocol)
    return (
        f"Accuracy in percent, protocol {protocol}{meaning}. Seeds {seeds}: a cell with several shows mean ± standard "
        f"deviation, and marks need a significant difference."
    )


def protocol_meaning(records: Sequence[ValidRecord], protocol: str) -> str:
    """Returns what a protocol trains on and evaluates, after a colon; empty for an unknown one."""
    shots = {record["config"]["protocol"].get("shots") for record in records}
    kind = "few_shot" if protocol.startswith("few_shot_") else protocol
    num_train = {record["split"].get("num_train", 1000) for record in records}
    values = {
        "images": "the 1000 training images" if num_train == {1000} else "all training images",
        "shots": " or ".join("1 image" if number == 1 else f"{number} images" for number in shots),
    }
    return f": {PROTOCOLS[kind].format(**values)}" if kind in PROTOCOLS else ""


def table_facts(
    records: Sequence[ValidRecord], shared: Mapping[str, str], budgets: Sequence[Sequence[Budget]]
) -> list[str]:
    """Returns the sentences below a table, without their periods.

    Args:
        records: the records that the table counts.
        shared: the settings that all rows share.
        budgets: those of the rows, for each task.
    """
    commits = sorted({format_commit(record["git"]) for record in records})
    verdicts = sorted({str(record["split"]["verdict"]) for record in records})
    split_checks = [SPLIT_CHECKS.get(verdict, verdict) for verdict in verdicts]
    settings = "; ".join(f"{name} {value}" for name, value in shared.items())
    local = " (+: with local changes)" * any(commit.endswith("+") for commit in commits)
    facts = [
        f"All rows share: {settings}" if settings else "",
        f"Split check: {'; '.join(split_checks)}",
        TEST,
        budget_fact(budgets),
        TRIED,
        "– means not run",
        f"Computed from {len(records)} records, digest {digest_records(records)}",
        f"Commit {', '.join(commits)}{local}",
    ]
    return [fact for fact in facts if fact]


def format_commit(git: Mapping[str, object]) -> str:
    """Returns the first ten digits of a commit, with + if there were local changes."""
    return f"{git['commit'] or 'none'}"[:10] + "+" * bool(git["dirty"])
