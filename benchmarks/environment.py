"""What a result must say of where it was measured, and by which command and commit."""

import argparse
import os
import platform
import shutil
import subprocess
from datetime import date
from functools import cache
from pathlib import Path

import torch
from worker import version


def environment(device: str = "cpu") -> dict[str, str | int]:
    """Hardware and versions; those of the GPU too where the device is one."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "vector_width": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "sgemm_gflops": round(_sgemm_rate()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_geometric": version("torch-geometric"),
        "numba": version("numba"),
        "pyg_schnet": version("pyg-schnet"),
        **({} if device == "cpu" else _gpu()),
    }


def _gpu() -> dict[str, str | int]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_gib": round(properties.total_memory / 2**30),
        "cuda": torch.version.cuda or "none",
        "triton": version("triton"),
    }


def command_line(args: argparse.Namespace, suite: str, *words: str) -> str:
    """The command that makes results; its words name no paths of this machine."""
    start = ["python benchmarks/run.py", suite, "--quick" if args.quick else ""]
    return " ".join(word for word in (*start, *words) if word)


def commit() -> str:
    """The commit of this folder, with a plus if the package has been changed since."""
    git, here = shutil.which("git"), Path(__file__).parent
    if git is None:
        return "unknown"
    asked = [git, "-C", str(here), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        return "unknown"
    asked = [git, "-C", str(here), "diff", "--quiet", "HEAD", "--", "../src"]
    changed = subprocess.run(asked, check=False).returncode != 0
    return found.stdout.strip() + ("+" if changed else "")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache  # half a second, and the same for all rows of a command
def _sgemm_rate() -> float:
    """Billions of operations per second in a float32 matrix product, at best."""
    from time import perf_counter

    a, b = torch.randn(2000, 512), torch.randn(512, 512)
    times = []
    for _ in range(30):
        begin = perf_counter()
        a @ b
        times.append(perf_counter() - begin)
    return 2e-9 * 2000 * 512 * 512 / min(times)
