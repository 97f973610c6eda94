import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from pyg_schnet.ops import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(50):
        blocks = [torch.ones(1_000_000) for _ in range(4)]
        del blocks
work()
before = faults()
work()
print(faults() - before)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="settings of the C library of Linux"
)
def test_no_more_page_faults():
    """Two hundred blocks of a thousand pages are handed out again without a fault for each page."""
    command = [sys.executable, "-c", SCRIPT, "keep"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 2_000
