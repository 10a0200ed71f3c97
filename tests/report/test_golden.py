"""The table of a set of records made by hand, in every format, is the one that was looked at.

After a wanted change: `MOPPA_GOLDEN=write pytest tests/report/test_golden.py`, then look at what changed.
"""

import json
import os
import re
import shutil
import subprocess

import pytest

from moppa.record.schema import key_of
from moppa.report.build import write_tables
from tests.conftest import CONFIGS, ROOT
from tests.factories import PARAMS, composed, place_of, put_predictions, record_of
from tests.test_configs import TASKS

GOLDEN = ROOT / "tests" / "golden"
SKILL = {"lora": 2.0, "moppa": 1.0, "linear": -12.0, "ssf": 0.9}


def make(results):
    """Three whole rows of two seeds, one of one task, one file that is no record; published rows beside them."""
    methods = {method: composed((f"method={method}", "task=dtd", "protocol=final"))["method"] for method in SKILL}
    for number, task in enumerate(TASKS):
        plain = record_of("method=lora", f"task={task}", "backbone=vit_b16_in21k")
        for method, skill in SKILL.items():
            for seed in (0, 1) if method != "ssf" else (0,):
                if method == "ssf" and task != "svhn":
                    continue
                percent = 60 + number + skill + 0.2 * seed
                config = plain["config"] | {"method": methods[method], "seed": seed}
                written = plain | {
                    "method": method, "seed": seed, "config": config, "key": key_of(config, "w" * 64),
                    "correct": round(percent * plain["total"] / 100), "trainable_params": PARAMS[method],
                }  # fmt: skip
                path = results / "records" / place_of(written)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(written))
                if task in ("dtd", "svhn", "kitti"):
                    put_predictions(path, written, shift=7 * seed)
    broken = results / "records/vtab1k/vit_b16_in21k/dtd/linear/000000000000/seed0.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"half": ')
    shutil.copy(ROOT / "results" / "published.csv", results / "published.csv")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("golden")
    make(results)
    return {path.suffix[1:]: path.read_text() for path in write_tables(results, CONFIGS).written}


@pytest.mark.parametrize("suffix", ["md", "tex", "csv", "html"])
def test_the_table_equals_the_golden_file(suffix, made):
    golden = GOLDEN / f"table.{suffix}"
    if os.environ.get("MOPPA_GOLDEN") == "write":
        golden.write_text(made[suffix])
    assert made[suffix] == golden.read_text()


def test_the_latex_is_whole_and_compiles_where_there_is_a_latex(made, tmp_path):
    text = made["tex"]
    (tmp_path / "table.tex").write_text(text)
    commands = {
        "latexmk": ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "table.tex"],
        "tectonic": ["tectonic", "--only-cached", "table.tex"],
    }
    if (name := next((name for name in commands if shutil.which(name)), None)) is not None:
        done = subprocess.run(commands[name], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / "table.pdf").stat().st_size > 10_000
    else:
        print("neither latexmk nor tectonic is installed: the syntax alone is checked")
    assert_balanced(text)


def assert_balanced(text):
    """Braces close, environments nest, and every line of the table has as many cells as its columns."""
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
    assert len(lines) == 4 + 6  # ours; of three the papers' row and the one tuned on val200, and of moppa none
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {columns}


def test_text_that_is_markup_in_a_format_stays_text(tmp_path):
    from dataclasses import replace

    from moppa.report.load import load_records
    from moppa.report.render import latex_html, markdown
    from moppa.report.table import tables_of
    from tests.factories import put

    put(tmp_path, "method=lora", "task=dtd")
    [table] = tables_of(tmp_path, CONFIGS, *load_records(tmp_path))
    table = replace(table, rows=[replace(table.rows[0], name=r"<script>alert(1)</script> a_b & 5% | \x {y}")])
    assert "<script>" not in latex_html.html(table)
    assert "<script>" not in markdown.markdown(table)
    assert r"5% \| " in markdown.markdown(table)
    assert r"\textless{}script\textgreater{}" in latex_html.latex(table)
    assert r"a\_b \& 5\% \textbar{} \textbackslash{}x \{y\}" in latex_html.latex(table)
