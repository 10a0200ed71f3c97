"""Blocks are compiled once for all of their kind, and a compiled training is the eager one up to rounding."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from timm.layers.drop import DropPath

from moppa.peft.collect import trainable_parameters
from moppa.train import compiled_blocks as module
from moppa.train.compiled_blocks import DrawnDropPath, compiled_blocks
from moppa.utils.seeds import seeded
from tests.conftest import ROOT
from tests.models import batch, model_with, with_drop_path

PROGRAM = """
import functools
import json
import sys
import torch
from torch._dynamo.utils import counters
from moppa.record.schema import read_record
from run import run_cell
from tests import conftest

def losses_of(step, words, seed):
    paths = [f"run.results=PLACE/{step}", "data.cache=PLACE/store", f"run.step={step}"]
    overrides = [*conftest.TOY, *paths, *f"method={words}".split(), "train.drop_path=0.3", f"seed={seed}"]
    record = read_record(run_cell(conftest.config_of(*overrides)).record)
    return [epoch["loss"] for epoch in record["curve"]]

torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend=sys.argv[1])
for words in sys.argv[2:]:
    eager = losses_of("eager", words, 0)
    before = counters["stats"]["unique_graphs"]
    compiled = losses_of("compiled", words, 0)
    first = counters["stats"]["unique_graphs"] - before
    losses_of("compiled", words, 1)
    print("result", json.dumps([words, eager, compiled, first, counters["stats"]["unique_graphs"] - before - first]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "methods"),
    # inductor runs a C++ compiler for minutes; without it the graphs are the same and their code is torch's own
    [
        ("inductor", ["lora"]),
        ("aot_eager", ["moppa", "ssf", "adapter"]),
        ("aot_eager", ["lora backbone.quantize=int8", "moppa backbone.quantize=int4"]),
    ],
    ids=["inductor", "aot_eager", "quantized"],
)
def test_a_compiled_training_is_the_eager_one_and_compiles_three_kinds_of_block(backend, methods, tmp_path):
    """The first, those in the middle, and the last. In a separate process, without the tests' type checks."""
    for method, eager, compiled, num_graphs, num_more in trainings(backend, methods, tmp_path):
        assert compiled == pytest.approx(eager, rel=1e-3), method
        # SSF trains the patch embedding, so its first block gets an input with a gradient like the others
        assert num_graphs == (2 if method == "ssf" else 3), method
        assert num_more == 0, f"{method} was compiled again for another seed"


def trainings(backend, methods, folder):
    """Returns the results of PROGRAM for methods, each with the overrides behind its name."""
    command = [sys.executable, "-c", PROGRAM.replace("PLACE", str(folder)), backend, *methods]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [line.removeprefix("result ") for line in done.stdout.splitlines() if line.startswith("result ")]
    assert len(results) == len(methods)
    return map(json.loads, results)


@pytest.mark.slow
def test_what_acts_outside_of_the_forward_pass_acts_on_compiled_blocks_too(tmp_path):
    """AdaLoRA prunes its ranks after a step; PACE draws noise in the blocks, with another size in each."""
    methods = ["adalora", "lora train.pace=0.5"]
    for words, eager, compiled, num_graphs, num_more in trainings("aot_eager", methods, tmp_path):
        assert compiled == pytest.approx(eager, rel=1e-3), words
        assert num_graphs == (6 if "pace" in words else 3), words
        assert num_more == 0, words


@pytest.fixture
def uncompiled(monkeypatch):
    """Lets blocks run as they are where they would be compiled."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(self))
    monkeypatch.setattr(module, "configure_compiler", lambda: None)
    return compiled


def test_drop_paths_are_drawn_as_timms_and_restored(uncompiled):
    model = with_drop_path(model_with("lora"), 0.4).train()
    model.blocks[0].drop_path1 = torch.nn.Identity()
    images, _ = batch()
    with seeded(0):
        expected = [model(images) for _ in range(2)]
    with seeded(0), compiled_blocks(model, batch_size=6) as forward:
        assert uncompiled == list(model.blocks)
        actual = [forward(images) for _ in range(2)]
        twin = copy.deepcopy(model)
        assert len([part for part in twin.modules() if isinstance(part, DrawnDropPath)]) == 6
        assert torch.equal(twin.eval()(images), model.eval()(images))
    torch.testing.assert_close(actual, expected)
    assert not torch.equal(*expected)
    assert len([part for part in model.modules() if isinstance(part, DropPath)]) == 5


def test_without_drop_path_nothing_is_replaced_and_a_head_alone_is_not_compiled(uncompiled):
    model = model_with("lora")
    with compiled_blocks(model, batch_size=6):
        assert not [part for part in model.modules() if isinstance(part, DrawnDropPath)]
    with compiled_blocks(model_with("linear"), batch_size=6):
        assert uncompiled == list(model.blocks)
    assert trainable_parameters(model)
