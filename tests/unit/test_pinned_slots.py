"""Slots that CUDA refuses to page-lock: copies are slower, and the refusal is not left for a later kernel to raise."""

import mmap
from types import SimpleNamespace

import pytest

from mixdist.data.reading import pool
from mixdist.data.reading.pool import Pool


@pytest.mark.parametrize(("code", "cleared"), [(0, 0), (2, 1)])
def test_a_refusal_is_cleared_by_a_kernel_of_its_own(monkeypatch, code, cleared):
    slots, kernels = object.__new__(Pool), []
    slots._memory = mmap.mmap(-1, 4096)
    registered = []

    def ones(*_, device):
        kernels.append(device)
        raise RuntimeError("CUDA error: out of memory")

    def register(*arguments):
        registered.append(arguments[1:])
        return code

    monkeypatch.setattr(pool.torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=register))
    monkeypatch.setattr(pool.torch, "ones", ones)
    slots.pin()
    assert registered == [(4096, 0)]
    assert kernels == ["cuda"] * cleared
