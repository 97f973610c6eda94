import math
import zlib

import pytest
import torch
from molecules import random_molecule, small_model
from torch.utils.data import Subset
from torch_geometric.data import Data, InMemoryDataset

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample, QM9Sample
from pyg_schnet.training import Evaluation, Labelled, evaluate, fit_offsets, label_reader


@pytest.fixture(scope="module")
def sample() -> QM9Sample:
    return QM9Sample()[:40]


def test_columns_of_y(sample):
    expected = torch.stack([data.y[0, 7] for data in sample])
    for label in ("U0", 7):
        read = label_reader(sample, label)
        assert torch.equal(torch.cat([read(data) for data in sample]), expected)
        assert read(sample[3]).dtype == torch.float64


def test_fields():
    molecules = [random_molecule(3), random_molecule(4)]
    for k, data in enumerate(molecules):
        data.energy = torch.tensor([float(k)])
    assert label_reader(molecules, "energy")(molecules[1]).tolist() == [1.0]


def test_bad_labels(sample):
    with pytest.raises(ValueError, match="unknown target 'U00'"):
        label_reader(sample, "U00")
    with pytest.raises(ValueError, match="the data have no number or tensor 'energy'"):
        label_reader([random_molecule(3)], "energy")
    with pytest.raises(ValueError, match="holds 9 values per molecule"):
        label_reader([random_molecule(3)], "pos")
    with pytest.raises(ValueError, match="empty"):
        label_reader([], "energy")
    plain = [data for data in sample]  # noqa: C416 - a list has no target names
    with pytest.raises(ValueError, match=r"columns 0 to 18 \(got 19\)"):
        label_reader(plain, 19)


class Halved(InMemoryDataset):
    """Molecules that are not what the tensors of the data set hold."""

    def get(self, idx):
        data = super().get(idx)
        data.y = data.y / 2
        return data


def halved(sample):
    dataset = Halved(None)
    dataset._data, dataset.slices = sample._data, sample.slices
    return dataset


def shuffled(data):
    """Other atoms and other labels than before."""
    data = data.clone()
    data.z, data.y = data.z.flip(0)[1:], -data.y
    return data


DATASETS = {
    "whole": lambda sample: sample.copy(),
    "view": lambda sample: sample[[5, 0, 5, 39]],
    "slice": lambda sample: sample[30:3:-4],
    "one": lambda sample: sample[[7]],
    "lone": lambda sample: sample[[7]].copy(),
    "subset": lambda sample: Subset(sample[10:], [3, -1, 0]),
    "subset of a subset": lambda sample: Subset(Subset(sample, [9, 8, 7]), torch.tensor([2, 0])),
    "subset of a list": lambda sample: Subset(list(sample), [3, 5]),
    "list": list,
}
IN_ONE_STEP = ("whole", "view", "slice", "one", "subset", "subset of a subset")


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("label", ["U0", 3])
def test_everything_is_read_as_molecule_by_molecule(sample, name, label, monkeypatch):
    dataset = DATASETS[name](sample)
    column = sample.target_index(label)
    if not hasattr(dataset, "target_index") and name in ("list", "subset of a list"):
        label = column
    molecules = [dataset[i] for i in range(len(dataset))]
    if name in IN_ONE_STEP:
        monkeypatch.setattr("pyg_schnet.training.labels._read_one_by_one", None)
    found = Labelled.read(dataset, label)
    assert torch.equal(found.z, torch.cat([data.z for data in molecules]))
    assert found.sizes.tolist() == [data.num_nodes for data in molecules]
    assert torch.equal(found.labels, torch.stack([data.y[0, column] for data in molecules]))
    assert found.labels.dtype == torch.float64


def test_transforms_and_other_ways_to_get_molecules_count(sample):
    plain = Labelled.read(sample, 7)
    assert torch.equal(Labelled.read(halved(sample)[[4, 2]], 7).labels, plain.labels[[4, 2]] / 2)
    dataset = sample.copy()
    dataset.transform = shuffled
    for transformed in (dataset, Subset(dataset, range(40))):
        found = Labelled.read(transformed, 7)
        assert torch.equal(found.labels, -plain.labels)
        assert torch.equal(found.sizes, plain.sizes - 1)
        assert torch.equal(found.z[:4], sample[0].z.flip(0)[1:])


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize("counts", [(1, 3, 2), (1, 2, 0)])  # the latter as many as molecules
def test_labels_of_different_widths(as_list, counts):
    molecules = [random_molecule(3) for _ in counts]
    for data, count in zip(molecules, counts, strict=True):
        data.charge = torch.zeros(count)
    dataset = InMemoryDataset(None)
    dataset._data, dataset.slices = InMemoryDataset.collate(molecules)
    expected = f"1 in molecule 0 of the data set, {counts[1]} in molecule 1"
    with pytest.raises(ValueError, match=expected):
        Labelled.read(molecules if as_list else dataset, "charge")
    molecules[1].charge = None
    with pytest.raises(ValueError, match="0 in molecule 1"):
        Labelled.read(molecules, "charge")


def test_trajectories_are_read_in_one_step(monkeypatch):
    monkeypatch.setattr(InMemoryDataset, "__iter__", None)
    dataset = MD17Sample("ethanol")
    found = Labelled.read(dataset, "energy")
    assert torch.equal(found.labels, dataset.energy)
    assert found.sizes.tolist() == [9] * 1300


def test_offsets_of_sums_explain_the_energies(sample):
    model = SchNet(8, 8, 1)
    fit_offsets(model, Labelled.read(sample, "U0"))
    offsets = model.readout.offsets
    labels = torch.stack([data.y[0, 7] for data in sample])
    linear = torch.stack([offsets.atomref[data.z].sum() for data in sample])
    sizes = torch.tensor([data.num_nodes for data in sample])
    residual = (labels - linear) / sizes
    assert residual.abs().max() < 0.5  # eV per atom, of totals of thousands
    assert offsets.mean.item() == pytest.approx(residual.mean().item(), abs=1e-9)
    assert offsets.std.item() == pytest.approx(residual.std(correction=0).item())


def test_offsets_of_means_are_those_of_the_label(sample):
    model = SchNet(8, 8, 1, readout="mean", target="homo")
    fit_offsets(model, Labelled.read(sample, "homo"))
    homo = torch.stack([data.y[0, 2] for data in sample])
    assert model.readout.offsets.mean.item() == pytest.approx(homo.mean().item())
    assert model.readout.offsets.std.item() == pytest.approx(homo.std(correction=0).item())
    assert not model.readout.offsets.atomref.any()


def test_equal_labels_do_not_divide_by_zero():
    molecules = [random_molecule(3, seed=1), random_molecule(3, seed=1)]
    for data in molecules:
        data.energy = torch.tensor([-7.0], dtype=torch.float64)
    model = SchNet(8, 8, 1)
    fit_offsets(model, Labelled.read(molecules, "energy"))
    assert model.readout.offsets.std == 1.0


def test_perfect_references_leave_nothing_to_scale_by():
    """H2, H2O and CH4: three molecules, three species."""
    molecules = [random_molecule(n) for n in (2, 3, 5)]
    species = ([1, 1], [8, 1, 1], [6, 1, 1, 1, 1])
    for data, z, energy in zip(molecules, species, (-31.7, -2076.6, -1101.5), strict=True):
        data.z, data.energy = torch.tensor(z), energy
    model = SchNet(8, 8, 1)
    fit_offsets(model, Labelled.read(molecules, "energy"))
    assert model.readout.offsets.std == 1.0


def test_subsets_know_the_names_of_their_targets(sample):
    subset = torch.utils.data.Subset(sample, [3, 5])
    assert label_reader(subset, "U0")(subset[0]) == sample[3].y[0, 7]


def test_evaluation_needs_the_units_of_the_model(sample):
    with pytest.raises(ValueError, match="are in eV, the model is in kcal/mol"):
        evaluate(small_model(units="kcal/mol"), sample, "U0")
    with pytest.raises(ValueError, match="'alpha' are in Bohr"):
        evaluate(small_model(units="eV"), sample, "alpha")


def test_evaluation_keeps_no_graph(sample):
    assert not evaluate(small_model(), sample, "U0").predicted.requires_grad


def test_evaluate_against_a_loop(sample):
    model = small_model(units="eV")
    result = evaluate(model, sample, "U0", batch_size=7)  # the last batch is smaller
    predicted = torch.stack([model.predict(data, forces=False)["energy"][0] for data in sample])
    labels = torch.stack([data.y[0, 7] for data in sample])
    assert torch.allclose(result.predicted, predicted, rtol=1e-6)
    assert torch.equal(result.reference, labels)
    assert result.mae == pytest.approx((predicted - labels).abs().mean().item(), rel=1e-6)
    assert result.rmse == pytest.approx((predicted - labels).pow(2).mean().sqrt().item(), rel=1e-6)
    assert result.units == "eV"


def test_evaluate_keeps_the_mode(sample):
    for mode in (True, False):
        model = small_model().train(mode)
        evaluate(model, sample, "U0")
        assert model.training is mode


def test_unknown_species_are_a_warning_in_evaluation_only(sample):
    model = small_model()
    expected = evaluate(model, sample, "U0")
    model.species[8] = False
    with pytest.warns(UserWarning, match=r"not trained on: \[8\]"):
        result = evaluate(model, sample, "U0")
    assert result.mae == expected.mae
    with pytest.raises(ValueError, match="not trained on atomic number 8"):
        model.predict(next(data for data in sample if 8 in data.z))


def test_missing_labels_do_not_count():
    result = Evaluation.of(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, math.nan, 5.0]))
    assert result.mae == 1.5
    assert result.rmse == pytest.approx(math.sqrt(2.5))


def test_meaningless_evaluations():
    with pytest.raises(ValueError, match="no molecule has a label"):
        Evaluation.of(torch.zeros(2), torch.full((2,), math.nan))
    with pytest.raises(ValueError, match="prediction 1 is nan"):
        Evaluation.of(torch.tensor([0.0, math.nan]), torch.zeros(2))


FIELDS = ("pos", "force", "stress", "cell", "pbc")


def crystals() -> list[Data]:
    generator = torch.Generator().manual_seed(0)
    return [
        Data(
            z=torch.full((size,), 29),
            pos=torch.rand(size, 3, generator=generator),
            cell=torch.rand(1, 3, 3, generator=generator),
            pbc=torch.ones(1, 3, dtype=torch.bool),
            force=torch.rand(size, 3, generator=generator),
            stress=torch.rand(1, 3, 3, generator=generator),
            energy=torch.rand(1, generator=generator).double(),
        )
        for size in (3, 1, 2, 4)
    ]


def collated(molecules: list[Data]) -> InMemoryDataset:
    dataset = InMemoryDataset(None)
    dataset._data, dataset.slices = InMemoryDataset.collate(molecules)
    return dataset


def fingerprint(dataset) -> int:
    return Labelled.read(dataset, "energy").fingerprint


def test_the_same_molecules_have_the_same_fingerprint():
    """However they are kept; and it is known what it is, for another process to find."""
    molecules = crystals()
    dataset = collated([molecules[i] for i in (2, 0, 3, 1)])
    expected = fingerprint(molecules)
    assert fingerprint(collated(molecules)) == expected
    assert fingerprint(dataset[[1, 3, 0, 2]]) == expected
    assert fingerprint(Subset(dataset, [1, 3, 0, 2])) == expected
    assert fingerprint(Subset(molecules, range(4))) == expected
    assert fingerprint(dataset) != expected  # in another order
    assert fingerprint(molecules[:3]) != expected
    # By hand, of plain bytes.
    sums = {}
    for name in ("z", "sizes", "labels", *FIELDS):
        if name == "sizes":
            values = torch.tensor([3, 1, 2, 4])
        else:
            field = "energy" if name == "labels" else name
            values = torch.cat([data[field] for data in molecules])
        start = zlib.crc32(str(values.dtype).encode())
        sums[name] = zlib.crc32(values.numpy().tobytes(), start)
    assert expected == zlib.crc32(repr(sorted(sums.items())).encode())


@pytest.mark.parametrize("keep", [list, collated])
@pytest.mark.parametrize("name", [*FIELDS, "z", "energy"])
def test_other_molecules_have_another_fingerprint(keep, name):
    molecules = crystals()
    expected = fingerprint(keep(molecules))
    last = molecules[3][name].view(-1)
    last[-1] = not last[-1] if name == "pbc" else last[-1] + 1
    assert fingerprint(keep(molecules)) != expected
    if name != "z" and name != "energy" and name != "pos":
        for data in molecules:
            del data[name]
        assert fingerprint(keep(molecules)) != expected


def test_augmented_molecules_are_known_again():
    """Positions that are others at each look say nothing of the molecules."""

    def turned(data: Data) -> Data:
        data.pos = data.pos @ torch.linalg.qr(torch.randn(3, 3))[0]
        return data

    class Turned(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> Data:
            return turned(crystals()[i])

    dataset = collated(crystals())
    dataset.transform = turned
    for augmented in (dataset, Subset(dataset, range(4)), Turned()):
        assert fingerprint(augmented) == fingerprint(augmented)
