"""The archive behind PyG's from_qm9_pretrained, put together from stand-ins of SchNetPack.

PyG's own code, which unpickles those classes and copies their weights, is the reference.
"""

import shutil
import sys
import zipfile
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from molecules import random_molecule
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.nn import SchNet as PyGSchNet
from torch_geometric.nn.models.schnet import qm9_target_dict

from pyg_schnet import SchNet, edge_lengths, radius_graph
from pyg_schnet.storage import CorruptFileError


class SchNetPackModule(nn.Module):
    """A module as SchNetPack of 2019 had it; only its parts count."""

    def __init__(self, parts=(), **attributes):
        super().__init__()
        for name, value in dict(parts).items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        for name, value in attributes.items():
            setattr(self, name, value)


class Dense(nn.Linear):
    """A dense layer with the activation behind it."""

    def __init__(self, *sizes, activation=None, bias=True):
        super().__init__(*sizes, bias=bias)
        self.activation = activation


class Graph(nn.Module):
    """Edges for PyG, whose default needs pyg-lib."""

    def forward(self, pos, batch):
        edge_index = radius_graph(pos, 10.0, batch)
        return edge_index, edge_lengths(pos, edge_index)


NAMES = {
    "schnetpack.nn.activations": [],
    "schnetpack.atomistic": ["AtomisticModel", "Atomwise", "DipoleMoment"],
    "schnetpack.representation.schnet": ["SchNet", "SchNetInteraction"],
    "schnetpack.nn.acsf": ["GaussianSmearing"],
    "schnetpack.nn.base": ["Aggregate", "Dense", "GetItem", "ScaleShift"],
    "schnetpack.nn.blocks": ["MLP"],
    "schnetpack.nn.cfconv": ["CFConv"],
    "schnetpack.nn.cutoff": ["CosineCutoff"],
}


@pytest.fixture
def classes(monkeypatch) -> SimpleNamespace:
    """Stand-ins, importable under the names that they had."""
    found = {}
    for module in ("schnetpack", "schnetpack.nn", "schnetpack.representation", *NAMES):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
        for name in NAMES.get(module, ()):
            base = Dense if name == "Dense" else SchNetPackModule
            found[name] = type(name, (base,), {"__module__": module})
            setattr(sys.modules[module], name, found[name])

    def ssp(x):
        return nn.functional.softplus(x) - 0.6931471805599453

    ssp.__module__, ssp.__name__ = "schnetpack.nn.activations", "shifted_softplus"
    ssp.__qualname__ = ssp.__name__
    found["ssp"] = sys.modules["schnetpack.nn.activations"].shifted_softplus = ssp
    return SimpleNamespace(**found)


def whole_model(classes, dipole: bool, mean: bool, with_atomref: bool) -> nn.Module:
    """The network of the archive: 128 features, 6 blocks, 50 Gaussians to 10 A."""
    torch.manual_seed(0)
    dense, ssp = classes.Dense, classes.ssp
    blocks = []
    for _ in range(6):
        filter_network = nn.Sequential(dense(50, 128, activation=ssp), dense(128, 128))
        cutoff = classes.CosineCutoff({"cutoff": torch.tensor([10.0])})
        conv = classes.CFConv(
            {
                "in2f": dense(128, 128, bias=False),
                "f2out": dense(128, 128, activation=ssp),
                "filter_network": filter_network,
                "cutoff_network": cutoff,
                "agg": classes.Aggregate(average=False),
            }
        )
        parts = {"filter_network": filter_network, "cutoff_network": cutoff, "cfconv": conv}
        blocks.append(classes.SchNetInteraction(parts | {"dense": dense(128, 128)}))
    centers = torch.linspace(0.0, 10.0, 50)
    gaussians = {"width": torch.full((50,), float(centers[1])), "offsets": centers}
    representation = classes.SchNet(
        {
            "embedding": nn.Embedding(100, 128, padding_idx=0),
            "distance_expansion": classes.GaussianSmearing(gaussians, centered=False),
            "interactions": nn.ModuleList(blocks),
        }
    )
    layers = nn.Sequential(dense(128, 64, activation=ssp), dense(64, 1))
    head = (classes.DipoleMoment if dipole else classes.Atomwise)(
        {
            "out_net": nn.Sequential(
                classes.GetItem(key="representation"),
                classes.MLP({"out_net": layers}),
            ),
            "standardize": classes.ScaleShift(
                {"mean": torch.tensor([-4.2]), "stddev": torch.tensor([1.7])}
            ),
            "atom_pool": classes.Aggregate(average=mean),
            "atomref": nn.Embedding(100, 1) if with_atomref else None,
        },
        predict_magnitude=dipole,
    )
    return classes.AtomisticModel(
        {"representation": representation, "output_modules": nn.ModuleList([head])}
    )


CASES = {
    "mu": (0, True, False, False),
    "alpha": (1, False, False, False),
    "homo": (2, False, True, False),
    "r2": (5, False, False, False),
    "U0": (7, False, False, True),
}


@pytest.fixture
def archive(classes, tmp_path, request):
    """The archive unpacked, in the old format of PyTorch, with the source of classes as there."""
    index, *settings = request.param
    folder = tmp_path / "trained_schnet_models" / f"qm9_{qm9_target_dict[index]}"
    folder.mkdir(parents=True)
    with pytest.warns(UserWarning, match="Couldn't retrieve source code"):  # of classes made here
        torch.save(
            whole_model(classes, *settings),
            folder / "best_model",
            _use_new_zipfile_serialization=False,
        )
    np.savez(folder / "split.npz", train_idx=[0], val_idx=[1], test_idx=[2])
    return tmp_path


class Dataset:
    """What PyG asks of its QM9."""

    data = SimpleNamespace(idx=torch.arange(3))

    def atomref(self, target):
        return torch.zeros(100, 1)

    def __getitem__(self, index):
        return index


def molecules() -> Batch:
    return Batch.from_data_list([random_molecule(n, seed=n) for n in (9, 1, 14)])


@pytest.mark.parametrize(
    ("archive", "name"), [(case, name) for name, case in CASES.items()], indirect=["archive"]
)
def test_outputs_equal_those_of_pyg(archive, name, monkeypatch):
    index = CASES[name][0]
    theirs, _ = PyGSchNet.from_qm9_pretrained(str(archive), Dataset(), index)
    theirs.interaction_graph = Graph()
    data = molecules()
    expected = theirs.double()(data.z, data.pos, data.batch)
    for module in list(sys.modules):
        if module.split(".")[0] == "schnetpack":
            monkeypatch.delitem(sys.modules, module)

    for target in (index, name):
        ours = SchNet.from_pyg_archive(archive, target).double()
        output = ours(data.z, data.pos, data.batch)
        assert (output - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert expected.abs().max() > 0.01
    assert (ours.cutoff, ours.config["num_gaussians"]) == (10.0, 50)
    units = {"mu": "Debye", "alpha": "Bohr^3", "r2": "Bohr^2"}
    assert ours.units == units.get(name, "eV")
    assert ours.target == ("energy" if name == "U0" else name)


@pytest.mark.parametrize("archive", [CASES["U0"]], indirect=True)
def test_zipped_or_not(archive):
    data = molecules()
    expected = SchNet.from_pyg_archive(archive, "U0").predict(data)
    shutil.make_archive(archive / "models", "zip", archive, "trained_schnet_models")
    for path in (archive / "models.zip", archive / "trained_schnet_models"):
        result = SchNet.from_pyg_archive(path, 7).predict(data)
        assert torch.equal(result["forces"], expected["forces"])
    for path in (archive / "models.zip", archive):
        with pytest.raises(FileNotFoundError, match="there is no 'qm9_gap/best_model' in"):
            SchNet.from_pyg_archive(path, "gap")


def test_bad_arguments(tmp_path):
    for target in (12, -1, "energy"):
        with pytest.raises(ValueError, match=r"must be 0 to 11 or one of \['mu', .* \(got "):
            SchNet.from_pyg_archive(tmp_path, target)
    with pytest.raises(FileNotFoundError, match=r"no file .*download http://www.quantum-machine"):
        SchNet.from_pyg_archive(tmp_path / "none.zip", 7)
    (tmp_path / "some.zip").write_text("no")
    with pytest.raises(ValueError, match="is not a zip archive"):
        SchNet.from_pyg_archive(tmp_path / "some.zip", 7)


def test_damaged_archives(tmp_path):
    path = tmp_path / "trained.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trained_schnet_models/qm9_energy_U0/best_model", bytes(100))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"trained.zip' is damaged \(Bad CRC-32"):
        SchNet.from_pyg_archive(path, "U0")
