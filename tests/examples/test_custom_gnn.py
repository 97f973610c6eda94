"""The example of SchNetConv in other models learns, and its graphs are what it says."""

import importlib.util
import re
from functools import partial

import pytest
import torch
from example_runs import EXAMPLES, run_example
from torch_geometric.data import Batch, Data

from pyg_schnet import RadiusGraph
from pyg_schnet.datasets import QM9Sample

SCRIPT = EXAMPLES / "custom_gnn.py"
run = partial(run_example, "custom_gnn.py")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("custom_gnn", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def molecules():
    keys = ("z", "pos", "y", "edge_index", "edge_weight", "cutoff", "bond_index", "bond_attr")
    dataset = [
        Data(**{key: data[key] for key in keys})
        for data in QM9Sample(targets=["U0"], bonds=True, cutoff=5.0)[::500]
    ]
    return [*dataset[:2], carbon_dioxide(), dataset[3]]


def carbon_dioxide() -> Data:
    """A molecule without hydrogen."""
    data = Data(z=torch.tensor([8, 6, 8]), y=torch.zeros(1, 1, dtype=torch.float64))
    data.pos = torch.tensor([[-1.16, 0.0, 0.0], [0.0, 0.0, 0.0], [1.16, 0.0, 0.0]])
    data.bond_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    data.bond_attr = torch.tensor([[0.0, 1.0, 0.0, 0.0]]).repeat(4, 1)
    return RadiusGraph(5.0)(data)


@pytest.mark.slow
def test_models_learn(tmp_path):
    assert "--epochs must be at least 1" in run("--epochs", "0", cwd=tmp_path).stderr
    result = run("--epochs", "4", "--train-size", "800", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = dict(re.findall(r"(\S+(?: \S+)*) +(\d+\.\d+)$", result.stdout, flags=re.MULTILINE)[-4:])
    known = float(table.pop("free atoms, fitted"))
    assert set(table) == {"SpaceAndBonds", "sequential", "Heterogeneous"}
    assert known == pytest.approx(0.9, abs=0.1)
    for error in table.values():
        assert float(error) < 0.7 * known


def test_models_are_functions_of_molecules(example, molecules):
    """Every energy is that of its molecule alone; nothing is lost in a batch."""
    torch.manual_seed(0)
    models = {"SpaceAndBonds": example.SpaceAndBonds(), "Heterogeneous": example.Heterogeneous()}
    models["sequential"] = example.Plain(example.sequential())
    for name, model in models.items():
        kinds = name == "Heterogeneous"
        given = [example.by_kind(data) if kinds else data for data in molecules]
        with torch.no_grad():
            together = model(Batch.from_data_list(given))
            alone = torch.cat([model(Batch.from_data_list([data])) for data in given])
        assert together.shape == (4,)
        assert torch.allclose(together, alone, atol=1e-5)


def test_divided_molecules(example, molecules):
    """With one layer for all pairs of types, they give what whole molecules give."""
    torch.manual_seed(0)
    whole = Batch.from_data_list(molecules)
    divided = Batch.from_data_list([example.by_kind(data) for data in molecules])
    assert sum(index.size(1) for index in divided.edge_index_dict.values()) == whole.num_edges
    conv, embedding = example.conv(), torch.nn.Embedding(10, 64)
    expected = conv(embedding(whole.z), whole.edge_index, whole.edge_weight)
    found = {kind: torch.zeros(divided[kind].num_nodes, 64) for kind in example.KINDS}
    for first, _, second in divided.edge_types:
        edges = divided[first, "near", second]
        x = (embedding(divided[first].z), embedding(divided[second].z))
        found[second] += conv(x, edges.edge_index, edges.edge_weight)
    assert torch.allclose(found["heavy"], expected[whole.z > 1], atol=1e-5)
    assert torch.allclose(found["hydrogen"], expected[whole.z == 1], atol=1e-5)
