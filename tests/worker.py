"""A worker of a sweep for tests that kill it: runs one cell after the other, as a launcher with one process does."""

import sys
from pathlib import Path

import torch

from run import run_cell
from tests.conftest import config_of


def work(cells, log):
    """Runs every cell, each a list of overrides; prints the error of one that fails to `log` and goes on."""
    torch.set_num_threads(1)
    with Path(log).open("a", buffering=1) as file:
        sys.stdout = sys.stderr = file
        for overrides in cells:
            try:
                run_cell(config_of(*overrides))
            except Exception as error:
                print(f"error: {error}")
