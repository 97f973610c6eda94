"""How often work is done: once per call, whether warming up, recorded or repeated."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from pyg_schnet.training.capture import Captured

GPU = torch.device("cuda")


class FakeCuda:
    """A GPU that records: while it does, work is asked for and not done."""

    def __init__(self) -> None:
        self.recording, self.recorded = False, []
        self.streams = [self]
        self.broken = False

    def wait_stream(self, stream) -> None:
        pass

    def replay(self) -> None:
        for work in self.recorded:
            work()

    @contextmanager
    def graph(self, graph):
        self.recording = True
        self.streams.append("capturing")
        try:
            yield
            if self.broken:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.streams.pop()  # a capture that fails leaves its stream behind
        finally:
            self.recording = False

    def do(self, work) -> None:
        if self.recording:
            self.recorded.append(work)
        else:
            work()


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    replacements = {
        "device": lambda device: nullcontext(),
        "Stream": lambda: fake,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda: fake.streams[-1],
        "set_stream": fake.streams.append,
        "synchronize": lambda: None,
        "CUDAGraph": lambda: fake,
        "graph": fake.graph,
    }
    for name, replacement in replacements.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    return fake


def test_every_call_does_the_work_once(cuda):
    done, asked = [], []

    def step():
        asked.append(1)
        cuda.do(lambda: done.append(1))

    captured = Captured(step, GPU)
    for call in range(1, 8):
        captured()
        assert len(done) == call
        assert captured.is_captured == (call > 3)
    assert len(asked) == 4  # three to warm up, one recorded


def test_what_cannot_be_recorded_is_done_as_it_is(cuda):
    done = []
    cuda.broken = True
    captured = Captured(lambda: cuda.do(lambda: done.append(1)), GPU)
    for _ in range(3):
        captured()
    with pytest.warns(UserWarning, match=r"no CUDA graph could be captured \(operation not"):
        captured()
    assert cuda.streams[-1] is cuda  # where it was
    captured()
    assert len(done) == 5
    assert not captured.is_captured


def test_other_devices_do_it_as_it_is():
    done = []
    captured = Captured(lambda: done.append(1), torch.device("cpu"))
    for _ in range(5):
        captured()
    assert len(done) == 5
    assert not captured.is_captured
