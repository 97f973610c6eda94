"""Targets, units and bonds that a user asks QM9 for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from pyg_schnet import SchNet
from pyg_schnet.datasets import QM9, QM9Sample
from pyg_schnet.training import Labelled, evaluate, label_reader


@pytest.fixture(scope="module")
def everything() -> QM9Sample:
    return QM9Sample()


@pytest.mark.parametrize(
    ("targets", "columns"),
    [
        (["U0"], [7]),
        (["gap", "mu", "U0"], [4, 0, 7]),
        ([18, 0], [18, 0]),
        (("Cv", np.int64(2)), [11, 2]),
        (QM9.target_names, list(range(19))),
    ],
)
def test_targets_in_the_order_given(
    everything: QM9Sample, targets: list[str | int], columns: list[int]
) -> None:
    dataset = QM9Sample(targets=targets)
    assert torch.equal(dataset.y, everything.y[:, columns])
    assert list(dataset[3].y.shape) == [1, len(columns)]
    assert dataset.target_names == tuple(everything.target_names[k] for k in columns)
    assert set(dataset.units) == {"pos", *dataset.target_names}
    assert tuple(dataset.statistics().labels) == dataset.target_names
    assert everything.target_names == QM9.target_names  # others are not touched


def test_labels_follow_the_names(everything: QM9Sample) -> None:
    dataset = QM9Sample(targets=["gap", "U0"])
    assert dataset.target_index("U0") == 1
    expected = label_reader(everything, "U0")(everything[5])
    assert torch.equal(label_reader(dataset, "U0")(dataset[5]), expected)
    assert torch.equal(label_reader(dataset[2:9], 1)(dataset[5]), expected)
    with pytest.raises(ValueError, match=r"unknown target 'U': the data set has gap \(0\), U0 \(1"):
        label_reader(dataset, "U")
    with pytest.raises(ValueError, match=r"unknown target 2: the data set has gap"):
        dataset.target_index(2)


@pytest.mark.parametrize("target", ["U0", "G", "U0_atom", "homo"])
def test_units(everything: QM9Sample, target: str) -> None:
    dataset = QM9Sample(targets=["alpha", target], units="kcal/mol")
    assert dataset.units == {"pos": "Ang", "alpha": "Bohr^3", target: "kcal/mol"}
    expected = everything.y[:, everything.target_index(target)] * 23.060547830619
    torch.testing.assert_close(dataset.y[:, 1], expected, rtol=1e-10, atol=0)
    assert torch.equal(dataset.y[:, 0], everything.y[:, 1])
    subset = dataset[:5]
    assert evaluate(SchNet(8, 8, 1, units="kcal/mol"), subset, target).units == "kcal/mol"
    with pytest.raises(ValueError, match="are in kcal/mol, the model is in eV"):
        evaluate(SchNet(8, 8, 1, units="eV"), subset, target)


def test_references_have_the_unit_of_the_target(everything: QM9Sample) -> None:
    in_kcal = QM9Sample(units="kcal/mol").atomref("U0")
    in_ev, from_column = everything.atomref("U0"), QM9Sample(targets=["mu", "U0"]).atomref(1)
    assert in_kcal is not None
    assert in_ev is not None
    torch.testing.assert_close(in_kcal, in_ev * 23.060547830619, rtol=1e-10, atol=0)
    assert torch.equal(in_ev, from_column)
    converted = everything.convert_units(energy="kcal/mol").atomref("U0")
    torch.testing.assert_close(converted, in_kcal, rtol=1e-14, atol=0)


def test_training_labels(everything: QM9Sample) -> None:
    labels = Labelled.read(QM9Sample(targets=["zpve", "U0"], units="Hartree")[:4], "U0").labels
    assert labels[0].item() == pytest.approx(-40.47893, abs=1e-9)  # methane as published


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (["u0"], ValueError, "unknown target 'u0'"),
        ([19], ValueError, "unknown target 19"),
        ([-1], ValueError, "unknown target -1"),
        ([1.0], TypeError, r"a name or a column \(got 1\.0\)"),
        ([], ValueError, r"must name some, each once \(got \[\]\)"),
        (["U0", 7], ValueError, "each once"),
        ("U0", TypeError, r"such as \['U0'\]"),
        (7, TypeError, r"such as \[7\]"),
    ],
)
def test_bad_targets(tmp_path: Path, targets: list, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        QM9Sample(targets=targets)
    with pytest.raises(error, match=message):
        QM9(tmp_path / "root", targets=targets)
    assert not (tmp_path / "root").exists()


def test_units_that_nothing_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing here is in a unit of energy"):
        QM9Sample(targets=["mu"], units="eV")
    with pytest.raises(ValueError, match="unknown unit 'hartree'"):
        QM9(tmp_path / "root", units="hartree")
    assert not (tmp_path / "root").exists()


def test_archive_with_all_of_it(put_raw: Callable[..., Path], small_qm9: type[QM9]) -> None:
    root = put_raw()
    dataset = small_qm9(root, targets=["U0"], units="Hartree", bonds=True, cutoff=3.0)
    sample = QM9Sample(targets=["U0"], units="Hartree", bonds=True, cutoff=3.0)
    for ours, expected in zip(dataset[:2], sample[:2], strict=True):
        for key in ("z", "pos", "y", "x", "bond_index", "bond_attr", "edge_index"):
            assert torch.equal(ours[key], expected[key]), key
    assert "bond_index" not in small_qm9(root)[0]
    assert small_qm9(root)[0].y.shape == (1, 19)
    again = small_qm9(root, bonds=True)
    assert torch.equal(again[0].bond_index, sample[0].bond_index)


def test_pre_transform_that_drops_columns(
    put_raw: Callable[..., Path], small_qm9: type[QM9]
) -> None:
    def keep_one(data: Data) -> Data:
        data.y = data.y[:, 7:8]
        return data

    root = put_raw()
    assert small_qm9(root, pre_transform=keep_one)[0].y.shape == (1, 1)
    for arguments in ({"targets": ["U0"]}, {"units": "meV"}):
        with pytest.raises(ValueError, match="'y' has 1 columns, but 19 names"):
            small_qm9(root, pre_transform=keep_one, **arguments)
