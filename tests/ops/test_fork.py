"""Kernels that are first needed in a forked process do not wait for threads of its parent."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, torch
torch.set_num_threads(2)
import pyg_schnet
torch.randn(800, 800) @ torch.randn(800, 800)
torch.randn(4_000_000).exp()
child = os.fork()
if child == 0:
    from pyg_schnet.ops import shifted_softplus
    shifted_softplus(torch.randn(1_000_000))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_first_kernel_after_a_fork():
    subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], check=True, timeout=60)
