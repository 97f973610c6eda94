r"""What a worker can be asked to measure of a contender on a device.

A job is a dictionary: its ``kind``, one of ``KINDS``, and what that takes. The result is another.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from contenders.common import Contender, Inputs
from report import spread
from roofline import count, counted_kernels, measure_rates
from worker import about, as_batch, make

from device import steps
from device.clock import Memory, is_out_of_memory, measure, release, synchronize

TASKS = ("forward", "energies + forces", "energy step", "energy + force step")


def machine(name: str, job: dict, device: str) -> dict:
    """The rates that the device reaches: ``gib`` copied, matrices of ``size`` multiplied."""

    def times(run: Callable[[], object]) -> list[float]:
        return measure(run, job["seconds"], device)["times_ms"]

    rates = measure_rates(times, device, job["gib"], job["size"])
    release(device)
    found: dict[str, Any] = {"copy_gb_per_s": 1e-9 * rates.copy}
    found["product_gflop_per_s"] = 1e-9 * rates.product
    if device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        found |= {"name": properties.name, "memory_gib": properties.total_memory / 2**30}
        found["cuda"] = torch.version.cuda
    return found


def race(name: str, job: dict, device: str) -> dict:
    """Time, memory and work of the four tasks on the ``file`` of a system."""
    contender = built(name, job["network"], device)
    inputs = Inputs.read(job["file"])
    if name.startswith("ours"):
        inputs.data = as_batch(inputs)
    inputs = inputs.to(device)
    optimizer = torch.optim.Adam(contender.model.parameters(), lr=1e-5, fused=True)
    tasks: dict[str, Callable[[], object]] = {
        "forward": functools.partial(contender.forward, inputs),
        "energies + forces": functools.partial(contender.predict, inputs),
        "energy step": functools.partial(contender.energy_step, inputs, optimizer),
        "energy + force step": functools.partial(contender.force_step, inputs, optimizer),
    }
    memory = Memory(device)
    results: dict[str, Any] = {}
    for task, run in tasks.items():
        prepare = contender.prepare_training if "step" in task else contender.prepare_inference
        prepare()
        memory.forget_peak()
        try:
            results[task] = summary(measure(run, job["seconds"], device))
            results[task]["memory_mb"] = memory.peak()
            if name.startswith("ours"):
                results[task]["work"] = count(run, kernels_of(contender))
        except Exception as error:
            results[task] = failure(error)
            synchronize(device)  # raises if the device is lost
        optimizer.zero_grad()
        release(device)
    return {"tasks": results, "about": about(name)}


def scale(name: str, job: dict, device: str) -> dict:
    """Time and memory of energies and forces of the periodic system in ``file``.

    Its edges are looked for in each call, or lie ready if the job says ``edges``.
    """
    from contenders.ours import as_data

    contender = built(name, job["network"], device)
    contender.prepare_inference()
    inputs = Inputs.read(job["file"]).to(device)
    if job["edges"]:
        find_edges(inputs, job["network"]["cutoff"])
    if name.startswith("ours"):
        inputs.data = as_data(inputs, with_edges=job["edges"])
    memory = Memory(device)
    memory.forget_peak()
    run = functools.partial(contender.predict, inputs)
    found = summary(measure(run, job["seconds"], device, warm_up=2, at_least=3))
    found |= {"memory_mb": memory.peak(), "about": about(name)}
    if job["edges"]:
        found["edges"] = inputs.edge_index.size(1)
    return found


def find_edges(inputs: Inputs, cutoff: float) -> None:
    """Gives a periodic system its edges, found on its device."""
    from pyg_schnet import radius_graph

    assert inputs.cell is not None
    inputs.edge_index, inputs.edge_shift = radius_graph(inputs.pos, cutoff, cell=inputs.cell)
    inputs.offsets = inputs.edge_shift @ inputs.cell[0]


def kernels(name: str, job: dict, device: str) -> dict:
    """Time and work of each primitive, as a training step on the system in ``file`` calls it."""
    contender = built(name, job["network"], device)
    contender.prepare_training()
    inputs = Inputs.read(job["file"]).to(device)
    if inputs.cell is not None:
        find_edges(inputs, job["network"]["cutoff"])
    optimizer = torch.optim.Adam(contender.model.parameters(), lr=0.0, fused=True)
    module = kernels_of(contender)
    calls: list = []
    with counted_kernels(module, calls):
        contender.energy_step(inputs, optimizer)
        contender.force_step(inputs, optimizer)
    found = {}
    for kernel, args, kwargs, work in calls:
        # Of all calls with the same work, which differ in their features only.
        key = kernel + _variant(kernel, args, kwargs)
        if key not in found:
            run = functools.partial(_without_gradients, getattr(module, kernel), args, kwargs)
            found[key] = summary(measure(run, job["seconds"], device)) | {"work": vars(work)}
    sizes = {"atoms": len(inputs.z), "edges": inputs.edge_index.size(1)}
    return {"kernels": found, "sizes": sizes}


def _variant(kernel: str, args: tuple, kwargs: dict) -> str:
    """Derivative of the filter, weights and direction, where a primitive has these."""
    from pyg_schnet.ops import reference

    bound = inspect.signature(getattr(reference, kernel)).bind(*args, **kwargs)
    words = [f", derivative {bound.arguments['order']}"] if bound.arguments.get("order") else []
    words += [", weighted"] if bound.arguments.get("weight") is not None else []
    words += [", transposed"] if bound.arguments.get("transposed") else []
    return "".join(words)


@torch.no_grad()
def _without_gradients(function: Callable, args: tuple, kwargs: dict) -> None:
    function(*args, **kwargs)


def built(name: str, network: dict, device: str) -> Contender:
    """A contender with random weights, on a device."""
    torch.manual_seed(0)
    contender = make(name)
    contender.build(network)
    contender.model.to(device)
    return contender


def kernels_of(contender: Contender) -> Any:
    """The module of the primitives that ours uses."""
    from pyg_schnet.ops import kernels_for

    return kernels_for(next(contender.model.parameters()))


def summary(measured: dict) -> dict:
    """Median and quartiles in place of single times."""
    times = measured.pop("times_ms")
    return measured | spread(times) | {"calls": len(times)}


def failure(error: BaseException) -> dict[str, str]:
    """Why there is no result, in one line."""
    if is_out_of_memory(error):
        return {"failure": "out of memory"}
    text = str(error).strip().splitlines()
    return {"failure": f"{type(error).__name__}: {text[0] if text else ''}"[:200]}


KINDS: dict[str, Callable[[str, dict, str], dict]] = {
    "machine": machine,
    "race": race,
    "scale": scale,
    "kernels": kernels,
    "steps": steps.measure_steps,
}
