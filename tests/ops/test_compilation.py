"""Kernels are compiled once, which is said, and run where nothing can be kept on disk."""

import os
import subprocess
import sys
from pathlib import Path

USE = """
import torch
from pyg_schnet.ops import EdgePlan, shifted_softplus
edges = torch.tensor([[1, 0], [0, 1]])
print(EdgePlan.build(edges, 2, torch.ones(2)).reverse.tolist(), shifted_softplus(torch.ones(1)))
"""
# What Numba finds on a machine where neither the package nor a home folder can be written to.
NOWHERE = """
from numba.core import caching
for kind in (caching.CacheImpl, *caching.CacheImpl.__subclasses__()):
    kind._locator_classes = []
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_compilation_is_announced_once_and_kept(tmp_path):
    first, second = run(USE, tmp_path), run(USE, tmp_path)
    assert first.stdout == second.stdout
    assert first.stdout.startswith("[1, 0] tensor([0.62")
    assert first.stderr.count("compiling CPU kernels for this machine, once") == 1
    assert "compiling" not in second.stderr
    assert any(tmp_path.rglob("*.nbi"))


def test_without_a_folder_to_keep_kernels_in(tmp_path):
    result = run(NOWHERE + USE, tmp_path)
    assert result.stdout.startswith("[1, 0] tensor([0.62")
    assert result.stderr.count("set NUMBA_CACHE_DIR to a folder") == 1
    assert not any(tmp_path.rglob("*.nbi"))
