"""Which GPUs a sweep uses and how they compute, on a machine without one."""

import os

import pytest
import torch

from moppa.utils import gpu
from moppa.utils.device import set_deterministic
from moppa.utils.errors import SettingError


def test_consecutive_jobs_have_different_gpus_of_those_that_are_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-7f")
    assert [gpu.gpu_of_job(number) for number in range(4)] == ["3", "GPU-7f", "3", "GPU-7f"]
    assert gpu.num_gpu_workers(2) == 4
    monkeypatch.setenv("MOPPA_CELLS_PER_GPU", "3")
    assert gpu.num_gpu_workers(2) == 6
    monkeypatch.setenv("MOPPA_CELLS_PER_GPU", "many")
    with pytest.raises(SettingError, match="MOPPA_CELLS_PER_GPU='many': it must be an integer of at least 1"):
        gpu.num_gpu_workers(2)


def test_without_a_gpu_there_is_one_worker_for_each_cell_of_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.gpu_of_job(5) == ""
    assert gpu.num_gpu_workers(2) == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(gpu, "has_driver", lambda: False)
    assert gpu.visible_gpus() == []


@pytest.mark.parametrize(("has_gpu", "asked"), [(False, True), (True, False), (True, True)])
def test_deterministic_kernels_are_a_matter_of_the_gpu(has_gpu, asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        set_deterministic(asked)
        assert torch.are_deterministic_algorithms_enabled() == (has_gpu and asked)
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == (has_gpu and asked)
    finally:
        monkeypatch.undo()
        set_deterministic(False)
