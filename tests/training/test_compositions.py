"""Compositions that training tells of: projectors and spans worked out by hand."""

import copy

import pytest
import torch
from molecules import small_model
from torch_geometric.data import Data

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample, QM9Sample
from pyg_schnet.training import TrainConfig, evaluate, fit
from pyg_schnet.training.domain import learn_domain, unseen_compositions
from pyg_schnet.training.saved import load_model

ETHANOL, METHANE, WATER = {1: 6, 6: 2, 8: 1}, {1: 4, 6: 1}, {1: 2, 8: 1}
ACETYLENE, BENZENE, FORMIC_ACID = {1: 2, 6: 2}, {1: 6, 6: 6}, {1: 2, 6: 1, 8: 2}


def counts_of(*compositions: dict[int, int]) -> torch.Tensor:
    counts = torch.zeros(len(compositions), 101, dtype=torch.float64)
    for row, composition in zip(counts, compositions):
        for z, number in composition.items():
            row[z] = number
    return counts


def molecule(composition: dict[int, int], **fields) -> Data:
    """Its atoms in a row."""
    z = torch.tensor([z for z, number in composition.items() for _ in range(number)])
    pos = torch.zeros(len(z), 3)
    pos[:, 0] = 1.1 * torch.arange(len(z))
    return Data(z=z, pos=pos, **fields)


def labelled(*compositions: dict[int, int], energies: list[float] | None = None) -> list[Data]:
    energies = [float(-i) for i in range(len(compositions))] if energies is None else energies
    return [
        molecule(one, energy=torch.tensor([e], dtype=torch.float64))
        for one, e in zip(compositions, energies)
    ]


def trained(model: SchNet, molecules: list[Data], directory=None, **settings) -> SchNet:
    config = TrainConfig(label="energy", max_steps=1, **settings)
    fit(model, molecules, molecules, config, directory)
    return model


def tiny(**settings) -> SchNet:
    return SchNet(8, 8, 1, 10, cutoff=4.0, units="eV", **settings)


def outside(model: SchNet, *compositions: dict[int, int]) -> list[bool]:
    distance = (counts_of(*compositions) @ model.unseen.double()).norm(dim=1)
    return (distance > 1e-4).tolist()


def test_one_composition():
    """The complement of the line through (6, 2, 1), whose squared length is 41."""
    line = torch.tensor([6.0, 2.0, 1.0]).double()
    expected = torch.eye(3).double() - torch.outer(line, line) / 41
    found = unseen_compositions(counts_of(ETHANOL, ETHANOL))
    own = torch.tensor([1, 6, 8])
    assert torch.allclose(found[own][:, own], expected, atol=1e-14)
    assert found.count_nonzero() == 9


def test_two_compositions():
    """H, C and O with methane and water: what is left is normal to (4, 1, 0) and (2, 0, 1)."""
    normal = torch.tensor([1.0, -4.0, -2.0]).double() / 21**0.5
    found = unseen_compositions(counts_of(METHANE, WATER))
    own = torch.tensor([1, 6, 8])
    assert torch.allclose(found[own][:, own], torch.outer(normal, normal), atol=1e-14)


@pytest.mark.parametrize("times", [1, 100_000])
def test_spanning_is_exactly_zero(times):
    counts = counts_of(*[ETHANOL] * times, METHANE, WATER)  # a rare one counts as much
    assert not unseen_compositions(counts).any()


def test_species_that_always_come_together():
    """As many H as C: their sum is known, their difference is not; oxygen is known."""
    found = unseen_compositions(counts_of(ACETYLENE, BENZENE, {1: 2, 6: 2, 8: 1}))
    own = torch.tensor([1, 6, 8])
    expected = torch.tensor([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]).double()
    assert torch.allclose(found[own][:, own], expected, atol=1e-14)
    assert found.count_nonzero() == 4


def test_long_chains_that_differ_little():
    chains = [{1: 2 * n, 6: n} for n in range(50, 60)]
    assert unseen_compositions(counts_of(*chains)).any()
    assert not unseen_compositions(counts_of(*chains, {1: 122, 6: 60})).any()


def test_narrowed_in_any_order():
    one = unseen_compositions(counts_of(METHANE, WATER, ETHANOL, {7: 1, 1: 3, 9: 1}))
    before = torch.zeros(101, 101)
    species = torch.tensor([1, 6, 7, 8, 9])
    before[species, species] = 1.0
    for part in (WATER, {7: 1, 1: 3, 9: 1}, WATER, METHANE, ETHANOL):
        before = unseen_compositions(counts_of(part), before).float()  # as models store it
    assert torch.allclose(before.double(), one, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_training_keeps_it_everywhere(tmp_path, batch_size):
    model = trained(tiny(), labelled(ETHANOL, ETHANOL), tmp_path, batch_size=batch_size)
    assert torch.equal(model.unseen, unseen_compositions(counts_of(ETHANOL)).float())
    for name in ("best", "last"):
        found = load_model(tmp_path / f"{name}.safetensors")
        assert torch.equal(found.unseen, model.unseen)
    double = {1: 12, 6: 4, 8: 2}
    assert outside(model, ETHANOL, double, METHANE, WATER) == [False, False, True, True]


def test_data_that_span_all_their_species_leave_nothing():
    model = tiny()
    sample = QM9Sample()[:100]
    fit(model, sample, sample[:4], TrainConfig(label="U0", max_steps=1))
    assert not model.unseen.any()


def test_molecules_without_label_tell_nothing():
    nan = float("nan")
    model = trained(tiny(), labelled(ETHANOL, METHANE, WATER, energies=[1.0, 2.0, nan]))
    assert outside(model, ETHANOL, METHANE, WATER) == [False, False, True]
    assert outside(model, {1: 2, 6: 1, 8: 1}, {1: 2, 6: 1}) == [False, True]  # their difference


def test_padding_does_not_count():
    padded = labelled(ETHANOL)[0]
    padded.z[0] = 0  # one hydrogen less
    model = tiny()
    learn_domain(model, padded.z, [padded], counts_of({1: 5, 6: 2, 8: 1}))
    assert outside(model, {1: 5, 6: 2, 8: 1}, ETHANOL) == [False, True]
    assert not model.unseen[0].any()


@pytest.mark.parametrize(
    "settings", [{"readout": "mean"}, {"dipole": True, "target": "energy_like"}]
)
def test_other_readouts_know_nothing_of_it(settings):
    model = trained(tiny(**settings), labelled(ETHANOL, ETHANOL, energies=[1.0, 2.0]))
    assert not model.unseen.any()


def test_extensive_targets_other_than_the_energy():
    model = trained(tiny(target="zpve"), labelled(ETHANOL, ETHANOL))
    assert model.unseen.any()


def test_fine_tuning_adds_to_what_is_known():
    model = trained(tiny(), labelled(ETHANOL, ETHANOL))
    before = model.unseen.clone()
    trained(model, labelled(ETHANOL))
    assert torch.equal(model.unseen, before)
    trained(model, labelled(METHANE, METHANE))
    assert outside(model, ETHANOL, METHANE, WATER, {1: 10, 6: 3, 8: 1}) == [False] * 2 + [
        True,
        False,
    ]
    trained(model, labelled(WATER, WATER))
    assert not model.unseen.any()
    # Nitrogen is new, and known only together with four hydrogens and a fluorine.
    model.readout.offsets.atomref[[7, 9]] = -1.0
    trained(model, labelled({7: 1, 1: 4, 9: 1}, {7: 1, 1: 4, 9: 1}))
    assert outside(model, WATER, {7: 1, 1: 4, 9: 1}, {7: 1, 9: 1}, {7: 1, 1: 3}) == [False] * 3 + [
        True
    ]


def test_offsets_fitted_anew_forget_what_was_before():
    """The old energies had other references."""
    model = trained(tiny(), labelled(ETHANOL, METHANE, WATER))
    assert not model.unseen.any()
    model.readout.offsets.set()
    trained(model, labelled(FORMIC_ACID, FORMIC_ACID))
    assert outside(model, FORMIC_ACID, ETHANOL, METHANE, WATER) == [False, True, True, True]


def test_of_models_trained_on_who_knows_what_nothing_is_known():
    model = small_model()  # has references
    model.species[50:] = False
    trained(model.float(), labelled(ETHANOL, ETHANOL))
    assert not model.unseen.any()


def test_without_any_energy_nothing_is_known():
    molecules = [molecule(ETHANOL, force=torch.randn(9, 3)) for _ in range(2)]
    model = trained(tiny(), molecules, energy_weight=0.0, force_weight=1.0)
    assert model.species[[1, 6, 8]].all()
    assert not model.unseen.any()


@pytest.mark.filterwarnings("error")
def test_training_and_evaluation_do_not_mind():
    model = trained(tiny(), labelled(ETHANOL, ETHANOL))
    with_it = copy.deepcopy(model)
    model.unseen.zero_()
    others = labelled(METHANE, WATER)
    assert evaluate(with_it, others, "energy").mae == evaluate(model, others, "energy").mae
    fit(with_it, labelled(ETHANOL), others, TrainConfig(label="energy", max_steps=1))


def test_of_the_molecule_that_a_shipped_model_knows():
    """Training as the shipped model was trained gives what its file holds."""
    sample = MD17Sample("ethanol")[:4]
    model = SchNet(8, 8, 1, 10, cutoff=4.0)
    fit(model, sample, sample, TrainConfig(label="energy", max_steps=1))
    assert torch.equal(model.unseen, SchNet.from_pretrained("md17-ethanol").unseen)
