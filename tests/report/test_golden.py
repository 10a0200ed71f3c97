"""The table of fixed records equals the golden file in every format.

After an intended change run `MOPPA_GOLDEN=write pytest tests/report/test_golden.py` and review the diff.
"""

import csv
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from moppa.record.schema import key_of
from moppa.report.build import write_tables
from tests.conftest import CONFIGS, ROOT
from tests.factories import PARAMS, composed, path_of, record_of, write_predictions, write_record_file
from tests.test_configs import TASKS

GOLDEN = Path(__file__).parent / "golden"
SKILL = {"lora": 2.0, "moppa": 1.0, "linear": -12.0, "ssf": 0.9}


def write_records(results):
    """Writes three complete rows with three seeds, one row with one task, one broken file, and the published rows."""
    methods = {method: composed((f"method={method}", "task=dtd", "protocol=final"))["method"] for method in SKILL}
    for number, task in enumerate(TASKS):
        plain = record_of("method=lora", f"task={task}", "backbone=vit_b16_in21k")
        for method, skill in SKILL.items():
            for seed in (0, 1, 2) if method != "ssf" else (0,):
                if method == "ssf" and task != "svhn":
                    continue
                percent = 60 + number + skill + 0.2 * seed
                config = plain["config"] | {"method": methods[method], "seed": seed}
                written = plain | {
                    "method": method, "seed": seed, "config": config, "key": key_of(config, "w" * 64, "float32"),
                    "correct": round(percent * plain["total"] / 100), "trainable_params": PARAMS[method],
                }  # fmt: skip
                path = results / "records" / path_of(written)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(written), encoding="utf-8")
                if task in ("dtd", "svhn", "kitti"):
                    write_predictions(path, written, shift=7 * seed)
    broken = results / "records/vtab1k/vit_b16_in21k/dtd/linear/000000000000/seed0.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"half": ', encoding="utf-8")
    shutil.copy(ROOT / "results" / "published.csv", results / "published.csv")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    results = tmp_path_factory.mktemp("golden")
    write_records(results)
    output = write_tables(results, CONFIGS)
    digest = output.tables[0].digest  # depends on every setting of the configs, which the table does not show
    return {path.suffix[1:]: path.read_text(encoding="utf-8").replace(digest, "0" * 16) for path in output.written}


@pytest.mark.parametrize("suffix", ["md", "tex", "csv", "html"])
def test_the_table_equals_the_golden_file(suffix, texts):
    golden = GOLDEN / f"table.{suffix}"
    if os.environ.get("MOPPA_GOLDEN") == "write":
        golden.write_text(texts[suffix], encoding="utf-8")
    assert texts[suffix] == golden.read_text(encoding="utf-8")


def test_the_latex_is_well_formed(texts):
    assert_well_formed(texts["tex"])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex with booktabs")
def test_the_latex_of_a_wide_and_long_table_compiles_and_fits_its_pages(texts, tmp_path):
    for method in ("lora", "linear"):
        for step in range(40):
            write_record_file(tmp_path, f"method={method}", "task=dtd", f"train.lr={step + 2}e-4", "train.epochs=77")
    write_tables(tmp_path, CONFIGS)
    documents = {"wide": texts["tex"], "long": next((tmp_path / "tables").glob("*.tex")).read_text(encoding="utf-8")}
    for name, text in documents.items():
        (tmp_path / f"{name}.tex").write_text(text, encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
        for problem in ("Float too large", "Overfull", "Too many unprocessed floats"):
            assert problem not in done.stdout, name
    assert "(3 pages" in done.stdout


def assert_well_formed(text):
    """Checks that braces close, environments nest, and every line of the table has a cell for every column."""
    plain = re.sub(r"(?<!\\)%.*", "", text).replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", plain):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    columns = len(re.search(r"\\begin\{tabular\}\{(l[r]+)\}", text)[1])
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 4 + 6  # ours; two published rows of each method but moppa
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {columns}


def test_markup_in_a_name_is_escaped_in_every_format(tmp_path):
    from dataclasses import replace

    from moppa.report.load import load_records
    from moppa.report.render import csv_file, latex_html, markdown
    from moppa.report.table import build_tables

    write_record_file(tmp_path, "method=lora", "task=dtd")
    [table] = build_tables(tmp_path, CONFIGS, *load_records(tmp_path))
    table = replace(table, rows=[replace(table.rows[0], name=r"<script>alert(1)</script> a_b & 5% | \x {y}")])
    columns = [replace(column, title=f"*A*|_B_[{column.title}](x)") for column in table.columns]
    titled = markdown.render_markdown(replace(table, columns=columns))
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in titled.splitlines() if line.startswith("|")}) == 1
    assert r"\*A\*\|\_B\_\[DTD\](x)" in titled
    rows = [replace(table.rows[0], name=name) for name in ("=1+1", "@sum", "-2", "[1]", "plain")]
    sheet = list(csv.DictReader(io.StringIO(csv_file.render_csv(replace(table, rows=rows, suite="+s")))))
    assert [line["row"] for line in sheet] == ["'=1+1", "'@sum", "'-2", "[1]", "plain"]
    assert sheet[0]["suite"] == "'+s"
    assert "\n{}[1] " in latex_html.render_latex(replace(table, rows=rows))  # not an argument of \\ before it
    assert "<script>" not in latex_html.render_html(table)
    assert "<script>" not in markdown.render_markdown(table)
    assert r"5% \| " in markdown.render_markdown(table)
    assert r"\textless{}script\textgreater{}" in latex_html.render_latex(table)
    assert r"a\_b \& 5\% \textbar{} \textbackslash{}x \{y\}" in latex_html.render_latex(table)
