"""Kernels under threads and processes: same results, no crash, no hang."""

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from pyg_schnet.ops import cfconv, cpu, cpu_launch, shifted_softplus, threads

from .conftest import molecules

# Python warns that forking a process with threads is dangerous. That is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def work(seed: int = 0) -> list[torch.Tensor]:
    """Forward, backward and double backward, large enough for several threads."""
    case = molecules([18] * 30, torch.float32, cutoff=6.0, seed=seed)
    plan = case.plan()
    x, _, table, _ = (t.requires_grad_() for t in case.features(64))
    distances = case.distances.clone().requires_grad_()
    assert distances.numel() * 64 > cpu_launch._SERIAL
    energy = shifted_softplus(cfconv(x, distances, table, plan)).sum()
    (slope,) = torch.autograd.grad(energy, distances, create_graph=True)
    slope.square().sum().backward()
    return [energy.detach(), slope.detach(), x.grad, table.grad, distances.grad]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    # The sum of the energy is PyTorch's, whose order does depend on threads.
    return all(torch.equal(p, q) for p, q in zip(a[1:], b[1:]))


def test_results_do_not_depend_on_the_number_of_threads():
    torch.set_num_threads(1)
    expected = work()
    for number in (2, 3, 7):
        torch.set_num_threads(number)
        assert same(work(), expected)


def test_python_threads_where_there_is_no_openmp(monkeypatch):
    expected = work()
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    torch.set_num_threads(3)
    assert same(work(), expected)


def test_concurrent_python_threads():
    torch.set_num_threads(2)
    expected = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert all(same(a, b) for a, b in zip(pool.map(work, range(4)), expected))


def convolve(queue, x, distances, table, plan) -> None:
    """Kernels only: other operators of PyTorch hang in a forked process with several threads."""
    queue.put(cpu.reduce(x, distances, table, plan).numpy())


def test_forked_process():
    torch.set_num_threads(2)
    case = molecules([18] * 30, torch.float32, cutoff=6.0)
    x, _, table, _ = case.features(64)
    arguments = (x, case.distances, table, case.plan())
    expected = cpu.reduce(*arguments)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=convolve, args=(queue, *arguments), daemon=True)
    process.start()
    assert torch.equal(torch.from_numpy(queue.get(timeout=60)), expected)
    process.join(timeout=60)
    assert process.exitcode == 0


class Convolutions(Dataset):
    """Convolves in the workers of a loader."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return work(index)[2]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_workers(method):
    expected = torch.stack([work(seed)[2] for seed in range(4)])
    loader = DataLoader(
        Convolutions(), batch_size=2, num_workers=2, multiprocessing_context=method, timeout=60
    )
    assert torch.equal(torch.cat(list(loader)), expected)


def test_import_does_not_load_kernels():
    code = (
        "import sys, pyg_schnet.ops; "
        "loaded = [m for m in sys.modules if m.startswith('pyg_schnet.ops.')]; "
        "assert not any('cpu' in m or 'kernels' in m for m in loaded), loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
