"""A copy of the cell that a module finished (its fixture `finished`), for tests that edit it."""

import shutil

import pytest


@pytest.fixture
def record(finished, tmp_path):
    """The record in a copy of the finished cell's results."""
    results = shutil.copytree(finished.parents[6], tmp_path / "results")
    return results / finished.relative_to(finished.parents[6])
