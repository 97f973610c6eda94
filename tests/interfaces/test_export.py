"""Exported programs against the models that they were made from."""

import importlib.util
import shutil
import subprocess

import pytest
import torch
from example_runs import EXAMPLES
from molecules import MODELS, random_molecule, small_model
from torch_geometric.data import Batch, Data

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.interfaces.export import ExportedModel, export

EXPORTABLE = ["cosine", "all pairs", "mean"]


def crystal() -> Batch:
    """Two triclinic cells smaller than the cutoff."""
    generator = torch.Generator().manual_seed(0)
    systems = []
    for n in (2, 5):
        cell = 3.0 * torch.eye(3) + torch.rand(3, 3, generator=generator)
        grid = torch.cartesian_prod(*[torch.arange(2) / 2] * 3)[:n]
        pos = (grid + 0.05 * torch.rand(n, 3, generator=generator)) @ cell
        z = torch.tensor([1, 6, 8, 7, 6])[:n]
        systems.append(Data(z=z, pos=pos.double(), cell=cell.double().unsqueeze(0)))
    return Batch.from_data_list(systems)


def assert_same(program: ExportedModel, model: SchNet, batch: Data, stress: bool = False) -> None:
    # Coefficients and sums are of single precision, in another order.
    expected = model.predict(batch, stress=stress, energies=True)
    found = program.predict(batch)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == expected[name].dtype
        size = max(float(expected[name].abs().max()), 1.0)
        assert torch.allclose(value, expected[name], rtol=0.0, atol=3e-6 * size), name


@pytest.mark.parametrize("kind", EXPORTABLE)
def test_molecules_of_all_sizes(kind, tmp_path):
    model = small_model(**MODELS[kind], units="eV").float()
    program = ExportedModel(export(model, tmp_path / "model.pt2"))
    assert (program.units, program.cutoff, program.dtype) == ("eV", model.cutoff, torch.float64)
    for sizes in ((5, 1, 8, 2), (7,), (1,), (1, 1)):
        assert_same(
            program, model, Batch.from_data_list([random_molecule(n, seed=n) for n in sizes])
        )
    assert_same(program, model, random_molecule(4))
    if kind != "all pairs":
        assert_same(program, model, crystal(), stress=True)


def test_single_precision(tmp_path):
    model = small_model(head_activation="silu").float()
    program = ExportedModel(export(model, tmp_path / "model.pt2", dtype=torch.float32))
    assert program.units is None
    batch = Batch.from_data_list([random_molecule(n, dtype=torch.float32) for n in (3, 6)])
    result, expected = program.predict(batch), model.predict(batch)
    assert result["forces"].dtype == torch.float32
    assert torch.allclose(result["forces"], expected["forces"], rtol=1e-4, atol=1e-4)


def test_what_the_model_refuses_is_not_a_number(tmp_path):
    model = small_model(**MODELS["all pairs"]).float()
    model.species[:] = False
    model.species[[1, 6, 7, 8, 9]] = True
    program = ExportedModel(export(model, tmp_path / "model.pt2"))
    good, bad = random_molecule(5), random_molecule(5, seed=1)

    def changed(**fields) -> Batch:
        return Batch.from_data_list([good, Data(**(dict(z=bad.z, pos=bad.pos) | fields))])

    far, same = bad.pos.clone(), bad.pos.clone()
    far[0] += 40.0
    same[1] = same[0]
    unknown, padding = bad.z.clone(), bad.z.clone()
    unknown[2], padding[2] = 26, 0
    for fields in (dict(pos=far), dict(pos=same), dict(z=unknown), dict(z=padding)):
        batch = changed(**fields)
        with pytest.raises(ValueError, match="'energy' is not finite: there may be"):
            program.predict(batch)
        edges = torch.cartesian_prod(torch.arange(5), torch.arange(5))
        edges = edges[edges[:, 0] != edges[:, 1]].T
        edges = torch.cat([edges, edges + 5], dim=1)
        cells = torch.zeros(2, 3, 3, dtype=torch.float64)
        shifts = torch.zeros(edges.size(1), 3, dtype=torch.float64)
        energy, energies, forces, virial = program(
            batch.z, batch.pos, batch.batch, edges, shifts, cells
        )
        assert energy.isnan().tolist() == [False, True]
        assert energies[:5].isfinite().all()
        assert forces[:5].isfinite().all()
        assert virial[0].isfinite().all()
        assert forces[5:].isnan().any()
        assert virial[1].isnan().any()


def test_refusals(tmp_path):
    path = tmp_path / "model.pt2"
    model = small_model()
    with pytest.raises(TypeError, match=r"expected a SchNet \(got Linear\)"):
        export(torch.nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match="its target is 'mu'"):
        export(small_model(dipole=True, target="mu"), path)
    with pytest.raises(ValueError, match=r"must end in '.pt2' \(got '.*model.pt'\)"):
        export(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"must be torch\.float32 or torch\.float64"):
        export(model, path, dtype=torch.float16)
    with pytest.raises(ValueError, match="build the model without"):
        export(small_model(interaction_graph=lambda pos, batch: None), path)
    model.interactions[0].act = torch.nn.Tanh()
    with pytest.raises(ValueError, match="parts were exchanged"):
        export(model, path)
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        ExportedModel(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="this is no archive"):
        ExportedModel(path)
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(3, 2),))
    torch.export.save(program, path)
    with pytest.raises(ValueError, match=r"version 1 \(got None\)"):
        ExportedModel(path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_compiled_in_python_and_in_cpp(tmp_path):
    model = SchNet.from_pretrained("md17-ethanol")
    path = export(model, tmp_path / "model.pt2", compiled=True)
    program = ExportedModel(path)
    frames = MD17Sample("ethanol", train=False)
    for count in (1, 3):
        batch = Batch.from_data_list([frames[i] for i in range(count)])
        expected, found = model.predict(batch), program.predict(batch)
        assert torch.allclose(found["energy"], expected["energy"], rtol=0, atol=1e-3)  # of 1e5
        forces = expected["forces"].double()
        assert torch.allclose(found["forces"], forces, rtol=0, atol=1e-3)  # kcal/mol/A, of 60

    spec = importlib.util.spec_from_file_location("build", EXAMPLES / "cpp" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    build.build("run_model", tmp_path / "run_model")
    frame = frames[0]
    rows = [f"{z} {x!r} {y!r} {w!r}" for z, (x, y, w) in zip(frame.z.tolist(), frame.pos.tolist())]
    (tmp_path / "molecule.txt").write_text("\n".join([str(len(rows)), *rows]))
    command = [tmp_path / "run_model", path, tmp_path / "molecule.txt", "30"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    energy, *forces = result.stdout.splitlines()
    expected = program.predict(frame)
    # The sums over neighbours are in another order there, and the weights in float32.
    assert float(energy) == pytest.approx(float(expected["energy"]), rel=1e-9)
    forces = torch.tensor([[float(f) for f in row.split()] for row in forces])
    assert torch.allclose(forces, expected["forces"].float(), atol=1e-4)
    (tmp_path / "molecule.txt").write_text("2\n8 0 0 0\n26 0 0 1\n")  # no iron in ethanol
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "the model refuses this molecule" in result.stderr
