"""Benchmarks on a device, here on the CPU through the same code, and with the clock of a GPU."""

import functools
import json
import time
from pathlib import Path

import pytest
import torch
from suites import arguments
from torch.testing import assert_close

from pyg_schnet import radius_graph

# The clock


class FakeGPU:
    """A GPU whose host is far ahead: each call takes it 2 ms, the first 50, and the host none."""

    def __init__(self) -> None:
        self.now, self.waits, self.calls, self.peak = 0.0, 0, 0, 0

    def work(self) -> None:
        self.calls += 1
        self.now += 50.0 if self.calls == 1 else 2.0

    def synchronize(self) -> None:
        self.waits += 1

    def event(self, enable_timing: bool):
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu: FakeGPU) -> None:
        self.gpu, self.at = gpu, None

    def record(self) -> None:
        self.at = self.gpu.now

    def elapsed_time(self, other: "FakeEvent") -> float:
        return other.at - self.at


@pytest.fixture
def fake(monkeypatch):
    fake = FakeGPU()
    monkeypatch.setattr(torch.cuda, "Event", fake.event)
    monkeypatch.setattr(torch.cuda, "synchronize", fake.synchronize)
    monkeypatch.setattr(time, "perf_counter", lambda: 1e-3 * fake.now)
    return fake


def test_times_are_those_of_the_device(load, fake) -> None:
    measured = load("device.clock").measure(fake.work, 0.1, "cuda", warm_up=3, at_least=5)
    assert measured["first_ms"] == pytest.approx(50.0)
    assert len(measured["times_ms"]) == 50  # of 2 ms each in 0.1 s
    assert measured["times_ms"] == pytest.approx([2.0] * 50)
    assert measured["wall_ms"] == pytest.approx(2.0)
    # After the first call, the warm-up, the call that tells how many, and all others.
    assert fake.waits == 4
    assert fake.calls == 3 + 1 + 50


def test_at_least_some_calls(load, fake) -> None:
    assert len(load("device.clock").measure(fake.work, 0.0, "cuda")["times_ms"]) == 5


def test_memory_of_a_gpu(load, monkeypatch) -> None:
    peaks = []
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 10 * 2**20)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peaks.append("forgotten"))
    memory = load("device.clock").Memory("cuda")
    memory.forget_peak()
    assert memory.peak() == 7.0
    assert peaks == ["forgotten"]


def test_out_of_memory(load) -> None:
    is_out_of_memory = load("device.clock").is_out_of_memory
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("an illegal memory access was encountered"))


# Processes


WORKER = """
import json, os, signal, sys, time
path, first = sys.argv[3:5]
for job in json.load(open(path))[int(first):]:
    what = job["what"]
    print("a library says hello", flush=True)
    if what == "crash":
        sys.exit("Segmentation fault {or so}")
    if what == "sleep":
        time.sleep(60)
    if what == "slow":
        os.kill(os.getpid(), signal.SIGALRM)
    found = {"failure": "broken"} if what == "fail" else {"value": what}
    print("result: " + json.dumps(found), flush=True)
    if what == "fail":
        sys.exit(1)
"""


@pytest.fixture
def launch(load, monkeypatch, tmp_path):
    """With a worker that needs no time to start."""
    launch = load("device.launch")
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(launch, "HERE", tmp_path)

    def run(*whats: str, seconds: float = 30.0, **options) -> list[str]:
        jobs = [{"what": what, "patience": 9.0, **options} for what in whats]
        done = launch.run_jobs("me", jobs, "cpu", time.monotonic() + seconds)
        return [job.get("value") or job["failure"] for job in done]

    return run


def test_what_fails_takes_nothing_from_others(launch, capfd) -> None:
    assert launch("one", "fail", "two", "crash", "slow", "three") == [
        *("one", "broken", "two"),
        "the worker ended with 1: Segmentation fault {or so}",
        *("over 9 s", "three"),
    ]
    assert "me failed:\nSegmentation fault" in capfd.readouterr().err


def test_workers_that_cannot_begin_are_not_tried_forever(launch) -> None:
    last = "not run: workers end without a result"
    assert launch("one", *["crash"] * 4, "two", "three")[5:] == [last] * 2


def test_no_time_left(launch) -> None:
    begin = time.monotonic()
    assert launch("one", "sleep", "two", seconds=1.0) == [
        "one",
        "not finished: no time was left",
        "not run: no time was left",
    ]
    assert time.monotonic() - begin < 10
    assert launch("one", seconds=0.0) == ["not run: no time was left"]


def test_a_ladder_ends_with_the_first_failure(launch) -> None:
    assert launch("one", "fail", "two", ladder=True) == ["one", "broken"]
    assert launch("one", "crash", "two", ladder=True)[1:] == [
        "the worker ended with 1: Segmentation fault {or so}"
    ]


def test_a_real_worker(load, tmp_path) -> None:
    launch = load("device.launch")
    jobs = [
        {"kind": "machine", "gib": 2**-8, "size": 64, "seconds": 0.0, "patience": 60.0},
        {"kind": "machine", "gib": 2**-8, "size": "large", "seconds": 0.0, "patience": 60.0},
    ]
    rates, broken = launch.run_jobs("ours", jobs, "cpu", time.monotonic() + 120)
    assert rates["copy_gb_per_s"] > 0.1
    assert broken["failure"].startswith("TypeError: ")


# Jobs


def test_all_pairs(load) -> None:
    pos, batch = torch.rand(9, 3), torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3])
    found = load("device.steps").all_pairs(batch)
    assert torch.equal(found, radius_graph(pos, 30.0, batch))


@pytest.fixture
def job(load) -> dict:
    network = load("systems").NETWORKS["paper"]
    job = {"kind": "steps", "data": None, "molecules": 20, "batch_size": 8, "network": network}
    return job | {"seconds": 0.0, "warm_up": 1, "workers": 0, "epochs": 1}


@pytest.mark.parametrize("name", ["ours", "pyg"])
@pytest.mark.parametrize("forces", [False, True])
def test_steps(load, job, name, forces) -> None:
    found = load("device.jobs").KINDS["steps"](name, job | {"forces": forces}, "cpu")
    assert found["molecules"] == 20
    assert found["steps_per_epoch"] == 3
    low, high = found["quartiles_ms"]
    assert 0 < low <= found["median_ms"] <= high
    assert found["epoch_s"] == pytest.approx(3e-3 * found["median_ms"])
    if name == "ours":
        assert found["warnings"] == []
        # Both directions of both kinds of edges, of 64 features in 3 blocks.
        edges = found["capacity"]["edges"]
        assert found["work"]["convolutions"]["flops"] > 2 * 10 * edges * 64 * 3
        assert found["work"]["all"]["bytes"] > found["work"]["convolutions"]["bytes"]


def test_batches_of_peers_have_their_labels(load, job) -> None:
    steps = load("device.steps")
    molecules = steps.training_set(None, 20)[0]
    batch = load("torch_geometric.loader").DataLoader(molecules, 4)
    inputs = steps.as_inputs(next(iter(batch)))
    assert inputs.size == 4
    assert_close(inputs.energy[1], molecules[1].y.flatten()[0].float())
    assert inputs.forces.shape == inputs.pos.shape
    sizes = torch.bincount(inputs.batch)
    assert inputs.edge_index.size(1) == int((sizes * (sizes - 1)).sum())


def test_edges_that_are_found_are_those_that_are_given(load, tmp_path) -> None:
    systems, read = load("systems"), load("contenders.common").Inputs.read
    systems.write_water(100, tmp_path / "with.npz", 5.0)
    assert systems.write_water(100, tmp_path / "without.npz", None) == {"atoms": 96}
    given, found = (read(str(tmp_path / f"{name}.npz")) for name in ("with", "without"))
    load("device.jobs").find_edges(found, 5.0)
    for name in ("pos", "edge_index", "edge_shift", "offsets", "cell"):
        assert_close(getattr(found, name), getattr(given, name), msg=name)
    # And the network sees them: its energies are those of edges that it finds itself.
    ours = load("contenders.ours").Ours()
    ours.build(systems.NETWORKS["128/3/20/5"])
    direct = ours.model(found.z, found.pos, cell=found.cell).squeeze(1)
    assert_close(ours.energy(found), direct.float())


def test_compiled_is_the_same_network(load, monkeypatch, request) -> None:
    """As the compiler sees it, whatever it makes of it: energies, and steps with forces."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    settings = torch._dynamo.config
    names = ("capture_scalar_outputs", "recompile_limit", "trace_autograd_ops")
    kept = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    request.addfinalizer(lambda: [setattr(settings, name, kept[name]) for name in kept])
    steps, worker = load("device.steps"), load("worker")
    inputs = steps.as_inputs(
        next(iter(load("torch_geometric.loader").DataLoader(steps.training_set(None, 20)[0], 4)))
    )
    inputs.energy = torch.randn(4)
    network = {"features": 8, "blocks": 1, "gaussians": 6, "cutoff": 5.0}
    made = []
    for name in ("pyg", "pyg_compiled"):
        torch.manual_seed(0)
        contender = worker.make(name)
        contender.build(network)
        optimizer = torch.optim.SGD(contender.model.parameters(), lr=1e-3)
        contender.prepare_training()
        contender.energy_step(inputs, optimizer)
        contender.force_step(inputs, optimizer)
        made.append(contender)
    for one, two in zip(*(contender.model.parameters() for contender in made), strict=True):
        assert_close(one, two)
    assert_close(made[1].energy(inputs), made[0].energy(inputs))


# Suites


@pytest.fixture
def here(load, monkeypatch):
    """Has jobs done in this process, some of them not."""
    jobs, clock = load("device.jobs"), load("device.clock")
    done = []

    def run_jobs(name: str, given: list[dict], device: str, deadline: float) -> list[dict]:
        found = []
        for job in given:
            done.append((name, job["kind"]))
            torch.manual_seed(0)
            result = jobs.KINDS[job["kind"]](name, job, device)
            clock.release(device)
            found.append(json.loads(json.dumps(result)))
        return found

    for suite in ("speed", "scaling", "epoch"):
        monkeypatch.setattr(load(f"device.{suite}"), "run_jobs", run_jobs)
    return done


@pytest.fixture
def gpu(load, here, monkeypatch):
    """The command for a GPU, with its parts in this process."""
    gpu = load("gpu")

    def run_part(words: list[str], log: Path, seconds: float):
        suite = load(words[2])
        suite.run(arguments(suite, *words[3:]))
        return gpu.Done("done", 0.1)

    monkeypatch.setattr(gpu, "run_part", run_part)
    return gpu


@pytest.mark.slow
def test_all_suites(load, gpu, here, tmp_path) -> None:
    words = ("--device", "cpu", "--quick", "--output", str(tmp_path))
    gpu.run(arguments(gpu, *words, "--parts", "speed", "scaling", "epoch"))
    results = {
        name: json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("speed", "scaling", "epoch")
    }
    texts = {name: (tmp_path / f"{name}.md").read_text() for name in (*results, "summary")}
    for name in results:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    assert here.count(("pyg", "steps")) == 2
    for entrants in results["speed"]["steps"].values():
        ratio = entrants["pyg"]["median_ms"] / entrants["ours"]["median_ms"]
        assert entrants["speedup"] == {"pyg": pytest.approx(ratio)}
        reached = entrants["ours"]["reached"]
        share = reached["floor_ms"] / entrants["ours"]["median_ms"]
        assert reached["of_floor"] == pytest.approx(share)
        assert share == pytest.approx(max(reached["of_copy"], reached["of_product"]))
    (system,) = results["speed"]["systems"].values()
    assert set(system["ours"]) == set(load("device.jobs").TASKS)
    assert "| batch 8, energies + forces |" in texts["speed"]
    assert "| reduce_double_backward |" in texts["speed"]

    system = results["scaling"]["systems"][0]
    assert system["size"]["atoms"] == 96
    assert system["size"]["edges"] > 4000
    ours = system["entrants"]["ours"]
    assert ours["atom_steps_per_s"] == pytest.approx(96e3 / ours["median_ms"])
    assert "## Atoms times steps per second" in texts["scaling"]

    values = results["epoch"]["steps"]["batch 8"]["ours"]
    assert values["molecules"] == 24
    assert values["before_s"] > 0
    assert "| batch 8 | 24 | " in texts["epoch"]

    assert "| step, batch 8, energies: PyG / ours |" in texts["summary"]
    assert "| 300 atoms, atoms x steps/s |" in texts["summary"]


def test_the_whole_race_is_planned(load, tmp_path) -> None:
    """What is of a GPU only: all systems, loaders with processes, compilation of some."""
    speed = load("speed")
    plan = load("device.speed")._whole(tmp_path, arguments(speed, "--device", "cuda"))
    kinds = {name: [job["kind"] for _, job in jobs] for name, jobs in plan.items()}
    assert kinds["ours"] == ["machine", *["steps"] * 4, *["race"] * 5, *["kernels"] * 2]
    assert kinds["pyg"] == ["steps"] * 4 + ["race"] * 5 + ["steps"] * 4
    assert kinds["pyg_compiled"] == ["steps"] * 4 + ["race"] * 2 + ["steps"] * 4
    workers = [job["workers"] for _, job in plan["pyg"] if job["kind"] == "steps"]
    assert workers == [0] * 4 + [4] * 4
    files = [Path(job["file"]) for jobs in plan.values() for _, job in jobs if "file" in job]
    assert len(files) == 14
    assert all(file.exists() for file in files)


def test_failures_are_shown_in_their_places(load, monkeypatch, tmp_path) -> None:
    device_speed, speed, path = load("device.speed"), load("speed"), tmp_path / "speed.json"
    none = {"failure": "out of memory"}
    monkeypatch.setattr(device_speed, "run_jobs", lambda name, jobs, *_: [none] * len(jobs))
    speed.run(arguments(speed, "--device", "cpu", "--quick", "--json", str(path)))
    text = path.with_suffix(".md").read_text()
    assert text.count("| out of memory | out of memory |") >= 4
    assert "The primitives on paper, one molecule of 18 atoms\n\nout of memory." in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs that there is no GPU")
@pytest.mark.parametrize("name", ["speed", "scaling", "epoch", "md", "qm9", "iso17", "md17"])
def test_without_a_gpu(load, name) -> None:
    suite = load(name)
    with pytest.raises(SystemExit, match="finds no GPU here"):
        suite.run(arguments(suite, "--device", "cuda"))


def test_rows_of_a_gpu_are_kept_apart(load, tmp_path) -> None:
    rows, qm9 = load("rows"), load("qm9")
    args = arguments(qm9, "--rows", "mean", "--directory", str(tmp_path / "runs"))
    assert rows.folder_of(args, "a, b") == tmp_path / "runs" / "a_b"
    assert rows.results_file(args, "qm9").name == "qm9.json"
    args.device = "cuda"
    assert rows.folder_of(args, "a, b") == tmp_path / "runs_cuda" / "a_b"
    assert rows.command(args, "qm9") == "python benchmarks/run.py qm9 --device cuda"
