"""Markdown files quote whole tables, columns and single numbers, and are updated from the tables."""

import pytest

from moppa.report.render.readme import updated_text
from moppa.utils.errors import UserError

TABLE = """# mini

Caption.

| method      |     A | **Mean of 2** |
| :---------- | ----: | ------------: |
| lora        | **9** |       5 ± 0.1 |
| b (x 1, y 2) † | <ins>2</ins> ± 0.1 | - |

- a note
"""


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "mini.md").write_text(TABLE, encoding="utf-8")
    return tmp_path


def test_a_table_is_quoted_with_all_columns_or_with_some(tables):
    text = updated_text("<!-- table mini -->\nold\n<!-- end of table -->\nafter", tables)
    assert text.count("|") == 4 * 4
    assert text.endswith("<!-- end of table -->\nafter")
    text = updated_text("<!-- table mini; Mean of 2 -->\n<!-- end of table -->", tables)
    assert [line.split() for line in text.splitlines()[4:6]] == [
        ["|", "lora", "|", "5", "±", "0.1", "|"],
        ["|", "b", "(x", "1,", "y", "2)", "†", "|", "-", "|"],
    ]


def test_a_number_is_quoted_without_its_mark(tables):
    text = "LoRA: <!-- number mini; lora; A -->1<!-- end -->, b: <!-- number mini; b (x 1, y 2); A -->3<!-- end -->."
    updated = updated_text(text, tables)
    assert updated == text.replace("-->1<", "-->9<").replace("-->3<", "-->2 ± 0.1<")
    assert updated_text(updated, tables) == updated


@pytest.mark.parametrize(
    ("marker", "problem"), [("mini; vera; A", "no row 'vera'"), ("mini; lora; B", "no column 'B'")]
)
def test_an_unknown_row_or_column_is_an_error(marker, problem, tables):
    with pytest.raises(UserError, match=problem):
        updated_text(f"<!-- number {marker} -->1<!-- end -->", tables)


def test_an_unknown_table_is_left_alone(tables):
    text = "<!-- table nowhere -->\nold\n<!-- end of table -->\n<!-- number nowhere; a; b -->1<!-- end -->"
    assert updated_text(text, tables) == text


def test_a_table_of_an_experiment_is_in_its_own_folder(tables):
    other = tables / "other" / "tables"
    other.mkdir(parents=True)
    (other / "mini.md").write_text(TABLE.replace("**9**", "8"), encoding="utf-8")
    (tables / "tables").mkdir()
    assert ">8<" in updated_text("<!-- number other/mini; lora; A -->1<!-- end -->", tables / "tables")


def test_a_table_is_quoted_with_some_rows(tables):
    text = updated_text("<!-- table mini; rows lora; A -->\n<!-- end of table -->", tables)
    assert [line.split() for line in text.splitlines() if line.startswith("| ")][2:] == [
        ["|", "lora", "|", "**9**", "|"]
    ]
    with pytest.raises(UserError, match="no row 'vera'"):
        updated_text("<!-- table mini; rows lora, vera -->\n<!-- end of table -->", tables)
