"""Random and malformed structures: what is accepted is right, what is not is refused in words.

Right is what a plain computation in double precision gives, and the same for a structure that is
turned or has its atoms in another order.
"""

import copy
import math
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, PropertyNotImplementedError
from fuzzing import answer, fuzz
from hypothesis import given
from hypothesis import strategies as st
from molecules import small_model
from torch_geometric.data import Batch, Data

from pyg_schnet import Ensemble, SchNet, SchNetCalculator, ops, radius_graph

FLOATS = (torch.float32, torch.float64)
OTHERS = (torch.float16, torch.bfloat16, torch.int64, torch.complex64, torch.bool)
STRANGE = (0.0, -0.0, 1e-30, 1e-8, 1e4, 1e15, 1e30, -1e300, math.inf, -math.inf, math.nan)
SPECIES = (1, 1, 6, 7, 8, 9, 17, 100)
STRANGE_SPECIES = (0, -1, 101, 119, 2**31, -(2**63))


@cache
def model(kind: str, dtype: torch.dtype = torch.float32) -> SchNet:
    overrides = {"cosine": {}, "none": {"envelope": "none", "cutoff": 30.0}, "frozen": {}}[kind]
    network = small_model(units="eV", **overrides).to(dtype).eval()
    return network.freeze() if kind == "frozen" else network


@st.composite
def positions(draw, count: int, strange: bool) -> np.ndarray:
    """Places of atoms in float64: near each other, coincident, far apart, or no places at all."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    kind = draw(st.sampled_from(("cloud", "cloud", "grid", "line")))
    pos = generator.normal(size=(count, 3))
    if kind == "grid":
        pos = np.round(1.2 * pos)  # with coincident atoms
    elif kind == "line":
        pos[:, 1:] = 0.0
    pos = pos * draw(st.sampled_from((1.0, 1.5, 2.0, 3.0, 1e-3, 20.0)))
    pos = pos + draw(st.sampled_from((0.0, 0.0, 0.0, 0.0, 100.0, 1e6)))
    if strange and count > 0:
        for _ in range(draw(st.integers(1, 3))):
            at = (draw(st.integers(0, count - 1)), draw(st.integers(0, 2)))
            pos[at] = draw(st.sampled_from(STRANGE))
    return pos


@st.composite
def cells(draw, strange: bool) -> np.ndarray:
    """Lattice vectors in rows: cubic, skewed, needles; or none."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    cell = np.eye(3) + draw(st.sampled_from((0.0, 0.3, 2.0))) * generator.normal(size=(3, 3))
    cell = cell * draw(st.sampled_from((2.0, 4.0, 30.0)))
    if strange:
        row = draw(st.integers(0, 2))
        cell[row] = draw(
            st.sampled_from(
                (np.zeros(3), cell[row - 1], 1e-4 * cell[row], 1e9 * cell[row], np.full(3, np.nan))
            )
        )
    return cell


@st.composite
def structures(draw) -> dict:
    """Arguments of a network, of which any may be wrong."""
    wrong = draw(st.sets(st.sampled_from(("z", "pos", "batch", "cell", "pbc", "type")), max_size=1))
    if draw(st.booleans()):
        wrong = set()
    count = draw(st.integers(0, 30))
    z = draw(st.lists(st.sampled_from(SPECIES), min_size=count, max_size=count))
    if "z" in wrong and count > 0:
        z[draw(st.integers(0, count - 1))] = draw(st.sampled_from(STRANGE_SPECIES))
    pos = torch.from_numpy(draw(positions(count, "pos" in wrong)))
    made = {"z": torch.tensor(z, dtype=torch.long), "pos": pos.to(draw(st.sampled_from(FLOATS)))}
    systems = 1
    if draw(st.booleans()):
        systems = draw(st.integers(1, 4))
        batch = draw(st.lists(st.integers(0, systems - 1), min_size=count, max_size=count))
        made["batch"] = torch.tensor(batch if "batch" in wrong else sorted(batch)).long()
        made["batch_size"] = systems
    if draw(st.integers(0, 2)) == 0:
        cell = [draw(cells("cell" in wrong)) for _ in range(systems)]
        made["cell"] = torch.from_numpy(np.stack(cell)).to(made["pos"].dtype)
        shape = draw(st.sampled_from(((3,), (systems, 3))))
        flags = st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape))
        made["pbc"] = torch.tensor(draw(flags)).view(shape)
    if "pbc" in wrong:
        made["pbc"] = draw(st.sampled_from((True, torch.ones(2).bool(), torch.ones(3))))
    if "type" in wrong:
        name = draw(st.sampled_from([k for k in made if isinstance(made[k], torch.Tensor)]))
        made[name] = draw(changed(made[name]))
    return made


@st.composite
def changed(draw, tensor: torch.Tensor):
    """A tensor of another type or shape, or none at all."""
    how = draw(st.sampled_from(("dtype", "short", "flat", "deep", "array", "list")))
    if how == "dtype":
        return tensor.to(draw(st.sampled_from(OTHERS)))
    if how == "short":
        return tensor[..., :-1]
    if how == "flat":
        return tensor.flatten()
    if how == "deep":
        return tensor.unsqueeze(-1)
    return tensor.numpy() if how == "array" else tensor.tolist()


def plain_energies(network: SchNet, made: dict) -> torch.Tensor:
    """By the operators in plain PyTorch, without tables, in double precision."""
    double = copy.deepcopy(network).double()
    double.mode = "exact"
    wide = {k: v.double() if k in ("pos", "cell") else v for k, v in made.items()}
    with ops.backend("reference"), torch.no_grad():
        return double(**wide)


def close(actual: torch.Tensor, expected: torch.Tensor, made: dict) -> bool:
    """Up to rounding of positions and of what sums over atoms."""
    eps = torch.finfo(made["pos"].dtype).eps
    extent = 1.0 + made["pos"].abs().max().item() if made["pos"].numel() else 1.0
    if "cell" in made:
        extent += made["cell"].abs().max().item()
    size = 1.0 + expected.abs().max().item() if expected.numel() else 1.0
    count = 1 + made["z"].numel()
    return bool(((actual - expected).abs() <= (2e-5 + 100 * eps * extent) * size * count).all())


@pytest.mark.parametrize("kind", ["cosine", "none", "frozen"])
@fuzz(30)
@given(made=structures(), dtype=st.sampled_from(FLOATS))
def test_networks(kind, made, dtype):
    network = model(kind, dtype)
    with torch.no_grad():
        energy = answer(lambda: network(**made))
    if energy is None:
        return
    assert energy.isfinite().all()
    assert energy.shape == (made.get("batch_size", 1), 1)
    if made["pos"].dtype in FLOATS:
        assert close(energy, plain_energies(network, made), made)


@fuzz(30)
@given(made=structures(), dtype=st.sampled_from(FLOATS), stress=st.booleans())
def test_predictions_of_data(made, dtype, stress):
    made = {k: v for k, v in made.items() if k != "batch_size"}
    network, data = model("frozen", dtype), Data(**made)
    result = answer(lambda: network.predict(data, stress=stress and "cell" in made))
    if result is not None:
        assert all(value.isfinite().all() for value in result.values()), result
        assert result["forces"].dtype == made["pos"].dtype
        # No force on the whole.
        size = result["forces"].abs().max().item() if len(data.z) else 0.0
        eps = torch.finfo(made["pos"].dtype).eps
        assert (result["forces"].double().sum(0).abs() <= 1e3 * eps * (1 + size)).all()


@fuzz(20)
@given(made=structures(), seed=st.integers(0, 2**32 - 1))
def test_neither_order_nor_orientation_matter(made, seed):
    if "batch" in made or made["pos"].__class__ is not torch.Tensor:
        return
    network = model("cosine", torch.float64)
    with torch.no_grad():
        energy = answer(lambda: network(**made))
    if energy is None or made["pos"].dtype not in FLOATS:
        return
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(made["z"].numel(), generator=generator)
    wide = {k: v.double() if k in ("pos", "cell") else v for k, v in made.items()}
    turned = wide | {"z": wide["z"][order], "pos": wide["pos"][order] @ turn}
    if "cell" in made:
        turned["cell"] = wide["cell"] @ turn
    with torch.no_grad():
        assert close(network(**turned), energy, made)


@fuzz(20)
@given(parts=st.lists(structures(), min_size=1, max_size=4))
def test_batches_are_what_their_molecules_are(parts):
    network = model("frozen", torch.float64)
    molecules, alone = [], []
    for made in parts:
        data = Data(z=made["z"], pos=made["pos"])
        if not isinstance(data.z, torch.Tensor) or not isinstance(data.pos, torch.Tensor):
            return
        result = answer(lambda data=data: network.predict(data))
        if result is not None and data.pos.dtype == torch.float64:
            molecules.append(data)
            alone.append(result)
    if not molecules:
        return
    result = network.predict(Batch.from_data_list(molecules))
    expected = torch.cat([one["energy"] for one in alone])
    assert torch.allclose(result["energy"], expected, rtol=1e-9, atol=1e-9)


@fuzz(30)
@given(
    made=structures(),
    kind=st.sampled_from(("single", "double", "ensemble")),
    skin=st.sampled_from((0.0, 1.0)),
    step=st.integers(0, 2**32 - 1),
)
def test_calculators(made, kind, skin, step):
    if not all(isinstance(made[name], torch.Tensor) for name in ("z", "pos")):
        return
    if made["pos"].dtype not in FLOATS or made["pos"].shape != (made["z"].numel(), 3):
        return
    if made["z"].dtype != torch.long or made["z"].dim() != 1:
        return
    cell = made.get("cell")
    cell = cell[0].double().numpy() if torch.is_tensor(cell) and cell.shape[1:] == (3, 3) else None
    atoms = Atoms(numbers=made["z"].numpy(), positions=made["pos"].double().numpy(), cell=cell)
    pbc = made.get("pbc")
    if torch.is_tensor(pbc) and pbc.shape[-1] == 3:
        atoms.pbc = pbc.reshape(-1, 3)[0].numpy()
    atoms.calc = calculator(kind, skin)
    refused = (CalculationFailed, PropertyNotImplementedError)
    for _ in range(2):
        forces = answer(atoms.get_forces, others=refused)
        if forces is None:
            assert atoms.calc.results == {}
            return
        for name, value in atoms.calc.results.items():
            assert np.isfinite(value).all(), name
        data = Data(z=made["z"], pos=torch.from_numpy(atoms.positions))
        if atoms.pbc.any():
            data.cell = torch.from_numpy(atoms.cell.array).unsqueeze(0)
            data.pbc = torch.from_numpy(atoms.pbc).unsqueeze(0)
        expected = atoms.calc.model.predict(data)
        assert atoms.calc.results["energy"] == pytest.approx(
            expected["energy"].item(), rel=1e-5, abs=1e-4
        )
        # The list of neighbours is kept, or not.
        generator = np.random.default_rng(step)
        atoms.positions += generator.normal(size=atoms.positions.shape) * 0.2


@cache
def calculator(kind: str, skin: float) -> SchNetCalculator:
    network = model("cosine", torch.float64 if kind == "double" else torch.float32)
    if kind == "ensemble":
        other = copy.deepcopy(network)
        other.reset_parameters()
        network = Ensemble([network, other])
    return SchNetCalculator(network, skin=skin, domain="ignore")


@fuzz(60)
@given(
    made=structures(),
    r=st.sampled_from((*5 * (1.5, 4.0), 0.0, -1.0, math.nan, math.inf, 1e-300, 12.0)),
)
def test_neighbours(made, r):
    arguments = {k: v for k, v in made.items() if k in ("pos", "batch", "cell", "pbc")}
    for backend in ("auto", "torch", "vesin"):
        found = answer(lambda backend=backend: radius_graph(r=r, backend=backend, **arguments))
        if found is not None:
            check_neighbours(made, r, *(found if "cell" in made else (found, None)))


def check_neighbours(made: dict, r: float, edges, shifts) -> None:
    pos, count = made["pos"], len(made["pos"])
    if pos.dtype not in FLOATS or pos.dim() != 2 or not within_reach(made, r):
        return
    shifts = torch.zeros(edges.size(1), 3) if shifts is None else shifts
    pairs = zip(edges.T.tolist(), shifts.tolist())
    actual = sorted((j, i, *map(int, shift)) for (j, i), shift in pairs)
    assert len(set(actual)) == len(actual)
    sure, maybe = pairs_by_brute_force(made, r, count)
    assert sure <= set(actual) <= maybe


def within_reach(made: dict, r: float) -> bool:
    """Whether a few images suffice for a search by brute force."""
    if "cell" not in made or not bool(torch.as_tensor(made["pbc"]).any()):
        return True
    if made["pos"].abs().max() > 200 if made["pos"].numel() else False:
        return False
    heights = 1.0 / torch.linalg.pinv(made["cell"].double()).norm(dim=1)
    return r <= 4.0 and bool((heights > 2.0).all()) and len(made["pos"]) <= 12


def pairs_by_brute_force(made: dict, r: float, count: int) -> tuple[set, set]:
    """Pairs that are within the radius for sure, and those that may be but for rounding."""
    pos = made["pos"].double().numpy()
    batch = made["batch"].tolist() if "batch" in made else [0] * count
    eps = torch.finfo(made["pos"].dtype).eps
    sure, maybe = set(), set()
    for system in set(batch):
        atoms = [i for i in range(count) if batch[i] == system]
        cell, reach = np.zeros((3, 3)), [0, 0, 0]
        if "cell" in made:
            pbc = torch.as_tensor(made["pbc"]).expand(made["cell"].size(0), 3)[system].numpy()
            cell = made["cell"][system].double().numpy() * pbc[:, None]
            dual = np.linalg.pinv(cell)
            extent = np.abs((pos[atoms] - pos[atoms[0]]) @ dual).max(axis=0)
            if pbc.any():
                reach = np.ceil(2 * extent + r * np.linalg.norm(dual, axis=0)).astype(int) * pbc
        images = list(product(*(range(-n, n + 1) for n in reach)))
        offsets = np.array(images) @ cell
        for i, j in product(atoms, atoms):
            d = np.linalg.norm(pos[j] - pos[i] + offsets, axis=1)
            error = 50 * eps * (1.0 + d + np.abs(pos[i]).max() + np.abs(offsets).max(axis=1))
            for image, distance, slack in zip(images, d, error):
                if i == j and not any(image):
                    continue
                if distance < r - slack:
                    sure.add((j, i, *image))
                if distance < r + slack:
                    maybe.add((j, i, *image))
    return sure, maybe
