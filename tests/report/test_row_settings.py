"""The settings that name a row: of a variant its name, and of a method that was tuned more than once all of them."""

from moppa.report.build import read_tables
from tests.conftest import CONFIGS
from tests.factories import write_record_file

TUNED = {"val200": 0.5, "num_settings": 3, "records": {}}
ONE_PRIOR = ["method.attach.priors=[heat]"]


def row_names(results, *rows, **fields):
    """Returns the names of the rows of cells with these overrides, on two tasks."""
    for overrides in rows:
        for task in ("dtd", "eurosat"):
            write_record_file(results, "method=moppa", f"task={task}", *overrides, **fields)
    [table] = read_tables(results, CONFIGS)[0]
    assert not table.excluded
    return {row.name for row in table.rows}


def test_the_settings_of_a_variant_are_its_name(tmp_path):
    variant = ["+variant=moppa_control"]
    names = {
        "moppa",
        "moppa (variant control)",
        "moppa (priors identity, physics_rate 10, scale 2)",
        "moppa (priors heat)",
    }
    assert row_names(tmp_path, [], variant, [*variant, "method.attach.scale=2"], ONE_PRIOR) == names


def test_settings_that_were_tuned_on_val200_do_not_name_a_row(tmp_path):
    assert row_names(tmp_path, ["method.attach.scale=2"], tuned=TUNED) == {"moppa"}


def test_a_method_that_was_tuned_twice_on_a_task_has_a_row_for_each(tmp_path):
    variant = ["+variant=moppa_attn_input", "hparams_fixed=[]"]
    names = {"moppa", "moppa (variant attn_input)", "moppa (priors heat)"}
    assert row_names(tmp_path, [], variant, ONE_PRIOR, tuned=TUNED) == names


def test_composed_methods_are_named_by_what_differs_from_the_yaml(tmp_path):
    compose = "method=compose"
    rows = [
        [compose],
        [compose, "method.attach.methods.a.attach.rank=4", "method.attach.layers=[1,2]"],
        [compose, "method@method.attach.methods.a=ssf", "~method@method.attach.methods.b"],
        [compose, "+method@method.attach.methods.c=vpt_deep", "method.attach.methods.c.attach.num_prompts=5"],
    ]
    assert row_names(tmp_path, *rows) == {
        "compose",
        "compose (a.rank 4, layers 1+2)",
        "compose (a ssf, b none)",
        "compose (c vpt_deep, c.num_prompts 5)",
    }
