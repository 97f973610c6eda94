"""Models in TorchSim: its own validation, our predictions, dynamics."""

import importlib.util
import math
import sys

import pytest
import torch
from ase.build import molecule
from example_runs import EXAMPLES, run_example
from molecules import RTOL, random_molecule, small_model
from torch_geometric.data import Batch, Data

from pyg_schnet import SchNet
from pyg_schnet.data import from_ase

ts = pytest.importorskip("torch_sim", reason="needs TorchSim: pip install pyg-schnet[torchsim]")

from torch_sim.models.interface import validate_model_outputs  # noqa: E402 - may be missing

from pyg_schnet.interfaces.torchsim import SchNetModel  # noqa: E402

CPU = torch.device("cpu")
CRYSTAL = {"cutoff": 4.0}


def periodic(dtype: torch.dtype = torch.float64, seed: int = 0) -> Batch:
    """Two triclinic cells smaller than the cutoff, with atoms outside of them."""
    generator = torch.Generator().manual_seed(seed)
    systems = []
    for n in (4, 6):
        cell = 3.5 * torch.eye(3) + torch.rand(3, 3, generator=generator)
        grid = torch.cartesian_prod(*[torch.arange(2) / 2] * 3)[:n]
        pos = (grid + 0.05 * torch.rand(n, 3, generator=generator) - 0.6) @ cell
        z = torch.tensor([1, 6, 8, 7, 6, 1])[:n]
        systems.append(Data(z=z, pos=pos.to(dtype), cell=cell.to(dtype).unsqueeze(0)))
    return Batch.from_data_list(systems)


def state_of(batch: Batch) -> "ts.SimState":
    """The same as TorchSim has it, with lattice vectors in columns."""
    cell = batch.get("cell")
    if cell is None:
        cell = torch.zeros(batch.num_graphs, 3, 3, dtype=batch.pos.dtype)
    return ts.SimState(
        positions=batch.pos,
        masses=torch.ones_like(batch.pos[:, 0]),
        cell=cell.mT.contiguous(),
        pbc=batch.get("cell") is not None,
        atomic_numbers=batch.z.int(),
        system_idx=batch.batch,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("envelope", ["cosine", "polynomial"])
def test_validation_by_torchsim(envelope, dtype):
    torch.manual_seed(0)
    network = SchNet(16, 16, 2, 20, cutoff=5.0, envelope=envelope, units="eV")
    validate_model_outputs(SchNetModel(network, dtype=dtype), CPU, dtype)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(("units", "factor"), [("kcal/mol", 0.0433641), ("Hartree", 27.2113862)])
def test_molecules(energy_model, units, factor, count):
    energy_model.units = units
    batch = Batch.from_data_list([random_molecule(n, seed=n) for n in (7, 3, 1, 5)[:count]])
    expected = energy_model.predict(batch)
    result = SchNetModel(energy_model)(state_of(batch))
    assert result.keys() == {"energy", "forces"}
    for name, value in result.items():
        assert value.dtype == torch.float64
        assert torch.allclose(value, factor * expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("envelope", ["cosine", "polynomial"])
@pytest.mark.parametrize("skin", [0.0, 0.6])
def test_periodic_along_a_trajectory(envelope, skin):
    network = small_model(**CRYSTAL, envelope=envelope, units="eV").float()
    model = SchNetModel(network, compute_stress=True, skin=skin)
    network.mode = "exact"
    batch = periodic()
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        batch.pos = batch.pos + 0.04 * torch.randn(batch.pos.shape, generator=generator)
        batch.cell = batch.cell * 1.003
        expected = network.predict(batch, stress=True)
        for name, value in model(state_of(batch)).items():
            size = expected[name].abs().max()
            assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-4 * float(size))
    if skin > 0:
        assert 1 <= model._neighbors.builds < 6


def test_large_open_systems_keep_their_neighbours():
    network = small_model(units="eV")
    model = SchNetModel(network)
    batch = Batch.from_data_list([random_molecule(n, seed=n) for n in (110, 130)])
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        batch.pos = batch.pos + 0.02 * torch.randn(batch.pos.shape, generator=generator)
        expected = network.predict(batch)
        result = model(state_of(batch))
        size = float(expected["forces"].abs().max())
        assert torch.allclose(result["forces"], expected["forces"], rtol=0, atol=1e-5 * size)
    assert model._neighbors.builds == 1


def test_derivatives():
    """Forces and stress against differences of TorchSim's energies."""
    model = SchNetModel(small_model(**CRYSTAL, units="kcal/mol", mode="exact"), compute_stress=True)
    batch, step = periodic(), 1e-4
    result = model(state_of(batch))

    def energies(change) -> torch.Tensor:
        moved = batch.clone()
        change(moved)
        return model(state_of(moved))["energy"]

    def slope(change) -> torch.Tensor:
        return (energies(lambda b: change(b, step)) - energies(lambda b: change(b, -step))) / (
            2 * step
        )

    for atom, axis in ((0, 0), (5, 2)):

        def move(b, h, at=(atom, axis)):
            b.pos[at] += h

        assert -slope(move).sum() == pytest.approx(float(result["forces"][atom, axis]), rel=1e-5)

    def strain(b, h):
        deformation = torch.eye(3, dtype=torch.float64)
        deformation[0, 1] += h / 2
        deformation[1, 0] += h / 2
        b.pos, b.cell = b.pos @ deformation, b.cell @ deformation

    volume = torch.linalg.det(batch.cell)
    assert torch.allclose(slope(strain) / volume, result["stress"][:, 0, 1], rtol=1e-5)


def test_stress_of_molecules_is_not_a_number():
    model = SchNetModel(small_model(units="eV"), compute_stress=True)
    batch = Batch.from_data_list([random_molecule(4), random_molecule(5)])
    result = model(state_of(batch))
    assert result["stress"].shape == (2, 3, 3)
    assert result["stress"].isnan().all()
    assert result["forces"].isfinite().all()


def test_single_precision_and_the_original_model():
    network = small_model(units="eV").float().train()
    model = SchNetModel(network, dtype=torch.float32)
    assert network.training
    batch = Batch.from_data_list([random_molecule(4, dtype=torch.float32)])
    result = model(state_of(batch))
    assert {value.dtype for value in result.values()} == {torch.float32}
    assert all(conv.is_frozen for conv in model.model._convs)
    moved = model.to("cpu")(state_of(batch))  # which discards tables
    assert all(conv.is_frozen for conv in model.model._convs)
    assert torch.equal(moved["energy"], result["energy"])
    with torch.inference_mode():
        again = model(state_of(batch.clone()))
    assert torch.allclose(again["forces"], result["forces"], rtol=RTOL[torch.float32])
    model.compute_forces = False
    assert model(state_of(batch)).keys() == {"energy"}


@pytest.mark.parametrize("crystal", [False, True])
def test_closer_than_in_training(crystal):
    network = small_model(units="eV")
    network.closest[:] = 1.0
    z, pos = torch.tensor([8, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.92]]).double()
    cell = torch.diag(torch.tensor([9.0, 9.0, 4.0])).double().unsqueeze(0)
    more = {"cell": cell} if crystal else {}
    batch = Batch.from_data_list([Data(z=z, pos=pos, **more) for _ in range(2)])
    model = SchNetModel(network, domain="raise")
    model(state_of(batch))
    batch.pos[3, 2] = 0.85 + (4.0 if crystal else 0.0)
    with pytest.raises(ValueError, match=r"in molecule 1 atoms .* 0.850 A apart, less than 0.9 of"):
        model(state_of(batch))
    model = SchNetModel(network)
    with pytest.warns(UserWarning, match="said once"):
        expected = model(state_of(batch))
    assert torch.equal(model(state_of(batch))["forces"], expected["forces"])
    SchNetModel(network, domain="ignore")(state_of(batch))
    with pytest.raises(ValueError, match="'domain'"):
        SchNetModel(network, domain="shout")


def test_compositions_that_training_tells_nothing_of():
    model = SchNetModel(SchNet.from_pretrained("md17-ethanol"))
    batch = Batch.from_data_list([from_ase(molecule(one)) for one in ("CH3CH2OH", "CH4")])
    with pytest.warns(UserWarning, match="in molecule 1 the composition CH4 is no .*once of each"):
        first = model(state_of(batch))
    assert torch.equal(model(state_of(batch))["energy"], first["energy"])  # without another


def test_refusals():
    with pytest.raises(ValueError, match=r"does not know the unit.*units='kcal/mol'"):
        SchNetModel(small_model())
    with pytest.raises(ValueError, match="are in eV, not in Hartree"):
        SchNetModel(small_model(units="eV"), units="Hartree")
    with pytest.raises(ValueError, match="unknown unit 'Debye'"):
        SchNetModel(small_model(units="Debye"))
    with pytest.raises(ValueError, match="its target is 'mu'"):
        SchNetModel(small_model(dipole=True, target="mu", units="eV"))
    with pytest.raises(TypeError, match=r"expected a SchNet \(got Linear\)"):
        SchNetModel(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"must be torch.float32 or torch.float64 \(got"):
        SchNetModel(small_model(), units="eV", dtype=torch.float16)
    for skin in (-1.0, math.inf):
        with pytest.raises(ValueError, match="'skin' must be finite"):
            SchNetModel(small_model(), units="eV", skin=skin)
    model = SchNetModel(small_model(), units="eV")
    batch = Batch.from_data_list([random_molecule(4, dtype=torch.float32)])
    with pytest.raises(ValueError, match=r"the state has dtype torch.float32.*state.to\("):
        model(state_of(batch))
    batch.pos = batch.pos.double()
    with torch.no_grad():
        model.model.readout.lin2.weight.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="'energy' that is not finite"):
        model(state_of(batch))


def test_example(tmp_path):
    result = run_example(
        "torchsim_md.py", "--num-molecules", "3", "--num-steps", "60", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "3 molecules of 9 atoms" in result.stdout
    swing = float(result.stdout.split("swing by ")[1].split()[0])
    assert 0 < swing < 1.0  # meV per atom


def test_benchmark():
    """Copies begin as the molecule does, and move."""
    path = EXAMPLES.parent / "benchmarks" / "md_torchsim.py"
    spec = importlib.util.spec_from_file_location("md_torchsim", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    model, molecule = small_model(units="kcal/mol"), random_molecule(5)
    run, start = benchmark.dynamics(model, molecule.z, molecule.pos, torch.zeros(5, 3), count=3)
    expected = model.predict(molecule)["forces"].repeat(3, 1) * 0.0433641
    assert torch.allclose(start["forces"], expected, rtol=1e-5, atol=1e-6)
    run(2)
    assert benchmark.steps_per_second(2, 3) > 0


def test_needs_torchsim(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    monkeypatch.setitem(sys.modules, "torch_sim.models.interface", None)
    monkeypatch.delitem(sys.modules, "pyg_schnet.interfaces.torchsim")
    with pytest.raises(ImportError, match=r"pip install pyg-schnet\[torchsim\]"):
        __import__("pyg_schnet.interfaces.torchsim")
