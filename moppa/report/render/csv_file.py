"""Tables as CSV, with four decimals and one column for each number."""

import csv
import io
from collections.abc import Sequence

from moppa.report.published import Published
from moppa.report.render.text import Header, published_mean, settings_tried, shown_published, table_headers
from moppa.report.rounding import round_text
from moppa.report.table import Row, Table

TEXTS = ("suite", "backbone", "protocol", "kind", "method", "row", "marks")


def render_csv(table: Table) -> str:
    """Returns our rows and then the published ones; the column `kind` tells them apart. Missing numbers are empty."""
    headers = table_headers(table)
    numbers = [header.key for header in headers if header.kind in ("task", "mean")]
    names = ["suite", "backbone", "protocol", "kind", "method", "row", "marks"]
    names += [column for key in numbers for column in (key, f"{key}_sd", f"{key}_seeds", f"{key}_mark")]
    names += [
        "settings_tried",
        "params",
        "params_with_head",
        *(header.key for header in headers if header.key == "backbone_params" or header.kind == "reference"),
    ]
    out = io.StringIO()
    columns = [*names, "records_digest"]
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    identity = {"suite": table.suite, "backbone": table.backbone, "protocol": table.protocol}
    lines = [{**identity, **row_fields(row, headers), "records_digest": table.digest} for row in table.rows]
    lines += [{**identity, **published_fields(row, numbers, table.checkpoint)} for row in shown_published(table)]
    writer.writerow({name: plain_text(name) for name in columns})
    writer.writerows(
        {name: plain_text(value) if name in TEXTS else value for name, value in line.items()} for line in lines
    )
    return out.getvalue()


def plain_text(value: object) -> str:
    """Returns a text that no spreadsheet takes for a formula: with an apostrophe before a sign that starts one."""
    text = str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def row_fields(row: Row, headers: Sequence[Header]) -> dict[str, object]:
    """Returns the fields of one of our rows."""
    fields: dict[str, object] = {"kind": "ours", "method": row.method, "row": row.name, "marks": row.marks}
    for key, value in row.values.items():
        if value.mean is not None:
            fields |= {key: round_text(value.mean, 4), f"{key}_seeds": value.num_seeds, f"{key}_mark": value.mark}
        if value.sd is not None:
            fields[f"{key}_sd"] = round_text(value.sd, 4)
    fields["settings_tried"] = settings_tried(row)
    fields["params"] = round_text(row.params)
    fields["params_with_head"] = "" if row.params_with_head is None else round_text(row.params_with_head)
    if row.backbone_params is not None:
        fields["backbone_params"] = row.backbone_params
    for header in headers:
        if header.kind == "reference" and (reference := row.references.get(header.key.removesuffix("_deviation"))):
            number = reference.deviation if header.key.endswith("_deviation") else reference.mean
            fields[header.key] = "" if number is None else round_text(number, 4)
    return fields


def published_fields(row: Published, numbers: Sequence[str], checkpoint: str) -> dict[str, object]:
    """Returns the fields of a published row."""
    values = {key: row.accuracies.get(key, published_mean(row, key)) for key in numbers}
    fields: dict[str, object] = {key: round_text(value, 4) for key, value in values.items() if value is not None}
    if row.params_m is not None:
        fields["params"] = round_text(10**6 * row.params_m)
    return fields | {"kind": "published", "method": row.method, "row": row.name, "marks": row.flags(checkpoint)}
