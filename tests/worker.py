"""A sweep's worker for tests that disturb it: one cell after the other, as a launcher of one process runs them."""

import sys
from pathlib import Path

import torch

from run import run_cell
from tests.conftest import config_of


def work(cells, log):
    """Runs every cell given as overrides; one that fails is noted in `log` and the next is begun."""
    torch.set_num_threads(1)
    with Path(log).open("a", buffering=1) as file:
        sys.stdout = sys.stderr = file
        for overrides in cells:
            try:
                run_cell(config_of(*overrides))
            except Exception as error:
                print(f"error: {error}")
