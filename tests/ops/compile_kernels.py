"""Compiles the Triton kernels to machine code for sm_90, on machines without a GPU.

The primitives are called as always, with tensors on the CPU, but by a driver that says it has an
H100 and launches nothing: so whatever Triton's compiler or assembler refuses shows, which the
interpreter lets pass, for the very arguments the primitives pass. Prints one line of JSON per
kernel.

    python tests/ops/compile_kernels.py [--all]
"""

import argparse
import itertools
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from pyg_schnet.ops import EdgePlan, Knots, cuda
from pyg_schnet.ops.cuda_collect import collect, merge
from pyg_schnet.ops.cuda_kernels import product, reduce, reduce_backward, reduce_double_backward

KERNELS = (reduce, product, reduce_backward, reduce_double_backward, collect, merge)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Utilities:
    """What a driver tells of a device."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232_448, "multiprocessor_count": 132}

    def load_binary(self, *arguments: Any) -> tuple[None, None, int, int, int]:
        return None, None, 0, 0, 1024


class NoGPU:
    """A driver without a device, which keeps what it should launch."""

    def __init__(self) -> None:
        self.launched: dict[str, Any] = {}
        self.utils = Utilities()

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *arguments, **options: None


def graph(dtype: torch.dtype, width: int, symmetric: bool) -> tuple[EdgePlan, list[Tensor]]:
    """Two atoms and a plan of their edges, and the tensors that convolutions on it take."""
    edge_index = torch.tensor([[1, 0, 1], [0, 1, 1]])[:, : 2 if symmetric else 3]
    distances = torch.ones(edge_index.size(1), dtype=dtype)
    plan = EdgePlan.build(edge_index, 2, distances if symmetric else None, Knots.spanning(5.0, 2.0))
    features = [torch.ones(2, width, dtype=dtype) for _ in range(3)]
    return plan, [*features, distances, torch.ones(plan.knots.rows, width, dtype=dtype)]


def call_all(dtype: torch.dtype, width: int, orders: range, weights: tuple[bool, ...]) -> None:
    """All primitives, each variant once."""
    plan, (g, x, y, d, table) = graph(dtype, width, symmetric=True)
    directed, (*_, e, _) = graph(dtype, width, symmetric=False)
    rows = table.size(0)
    for order, weighted in itertools.product(orders, weights):
        c = e if weighted else None
        cuda.reduce(x, e, table, directed, order, c)
        cuda.reduce(x, e, table, directed, order, c, transposed=True)
        cuda.collect(g, x, e, rows, directed, order, c)
    for order in orders:
        cuda.product(g, x, d, table, plan, order)
    cuda.reduce_backward(g, x, d, table, plan)
    for for_distances in weights:
        cuda.reduce_double_backward(g, x, y, d, d, table, plan, for_distances)
    cuda.collect_backward(g, x, y, d, d, rows, plan)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers per thread, and bytes of the stack, where registers are spilled to."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {key: int(re.search(rf"{key}:(\d+)", text)[1]) for key in ("REG", "STACK")}


def report(function: Any, compiled: Any) -> dict[str, Any]:
    """What the tests look at."""
    # Bounds of the knots arrive in double precision, and are rounded at once.
    body = re.sub(r"%\w+: f64|arith.truncf.*", "", compiled.asm["ttir"])
    constants = {function.arg_names[key[0]]: v for key, v in compiled.src.constants.items()}
    ptx = compiled.asm["ptx"]
    return {
        "name": compiled.name,
        "dtype": compiled.src.signature["distances"],
        "constants": constants,
        "mixed": "f32" in body and "f64" in body,
        "vector_loads": len(re.findall(r"ld\.global(?:\.\w+)*\.v[24]\.", ptx)),
        "atomics": re.search(r"\b(atom|red)\.", ptx) is not None,
        **resources(compiled.kernel),
    }


def main() -> None:
    """Compiles and reports."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true", help="every variant, not each option once")
    everything = parser.parse_args().all
    driver.set_active(NoGPU())
    if everything:
        for dtype, width in itertools.product((torch.float32, torch.float64), (1, 64, 100, 256)):
            call_all(dtype, width, range(4), (False, True))
    else:
        # Orders 1 and 2 are part of the fused kernels.
        call_all(torch.float32, 128, range(1), (True,))
        call_all(torch.float64, 100, range(3, 4), (False,))
    for function in KERNELS:
        for compiled in function.device_caches[0][0].values():
            print(json.dumps(report(function, compiled)))


if __name__ == "__main__":
    main()
