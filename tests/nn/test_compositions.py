"""Molecules whose composition is no combination of those in training, from all interfaces."""

import copy
import warnings

import pytest
import torch
from molecules import small_model
from torch_geometric.data import Batch, Data

from pyg_schnet import Ensemble, SchNet
from pyg_schnet.nn.compositions import Compositions
from pyg_schnet.nn.contacts import Contacts
from pyg_schnet.nn.system import System
from pyg_schnet.training.domain import unseen_compositions

ETHANOL, METHANOL, METHANE = {6: 2, 8: 1, 1: 6}, {6: 1, 8: 1, 1: 4}, {6: 1, 1: 4}


def molecule(composition: dict[int, int]) -> Data:
    """Its atoms in a row, far enough from one another."""
    z = torch.tensor([z for z, number in composition.items() for _ in range(number)])
    pos = torch.zeros(len(z), 3, dtype=torch.float64)
    pos[:, 0] = 1.3 * torch.arange(len(z))
    return Data(z=z, pos=pos)


def taught(*compositions: dict[int, int], **overrides) -> SchNet:
    """A model that was trained on these compositions."""
    model = small_model(**({"units": "eV"} | overrides))
    counts = torch.stack([torch.bincount(molecule(one).z, minlength=101) for one in compositions])
    model.unseen.copy_(unseen_compositions(counts))
    return model


def found_in(members: list[SchNet], *molecules: Data) -> dict[int, str]:
    batch = Batch.from_data_list(list(molecules))
    return Compositions(members).find(System(batch.z, batch.pos, batch.batch))


def test_each_molecule_of_a_batch():
    two = {z: 2 * number for z, number in ETHANOL.items()}
    four = {z: 400 * number for z, number in ETHANOL.items()}
    one_more = four | {1: four[1] + 1}
    compositions = [ETHANOL, METHANOL, two, METHANE, four, one_more, {1: 2}, ETHANOL]
    found = found_in([taught(ETHANOL)], *map(molecule, compositions))
    assert found == {1: "CH4O", 3: "CH4", 5: "C800H2401O400", 6: "H2"}


def test_formulas():
    others = ({8: 1, 1: 2}, {17: 1, 11: 1}, {6: 1, 35: 1, 17: 1, 9: 2}, {6: 2, 7: 1, 1: 5, 8: 2})
    found = found_in([taught(ETHANOL | {7: 1, 9: 1, 11: 1, 17: 1, 35: 1})], *map(molecule, others))
    assert list(found.values()) == ["H2O", "ClNa", "CBrClF2", "C2H5NO2"]


def test_padding_does_not_count():
    padded = molecule(ETHANOL | {0: 3})
    less = molecule(ETHANOL)
    less.z[-1] = 0
    assert found_in([taught(ETHANOL)], padded, less) == {1: "C2H5O"}


def test_models_that_span_or_do_not_know_say_nothing():
    known = taught(ETHANOL, METHANE, {1: 2, 8: 1})
    for model in (known, small_model(), taught(ETHANOL).requires_grad_(False)):
        expected = {0: "H2"} if model.unseen.any() else {}
        assert found_in([model], molecule({1: 2})) == expected
    known.predict(molecule(METHANOL), domain="raise")


def test_what_is_said():
    model, batch = taught(ETHANOL), Batch.from_data_list([molecule(ETHANOL), molecule(METHANOL)])
    silent = model.predict(batch)
    with pytest.raises(
        ValueError,
        match=r"^in molecule 1 the composition CH4O is no combination of those in training, so its "
        r"energy may be off by any amount; its forces are not affected by that: train on other",
    ):
        model.predict(batch, domain="raise")
    with pytest.warns(UserWarning, match="^in molecule 1 the composition CH4O is no") as caught:
        result = model.predict(batch, domain="warn")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert torch.equal(result["energy"], silent["energy"])
    with pytest.raises(ValueError, match=r"^the composition CH4O is no combination"):
        model.predict(molecule(METHANOL), domain="raise")
    model.predict(molecule(ETHANOL), domain="raise")
    more = Batch.from_data_list([molecule(one) for one in (METHANE, METHANOL, METHANE, {1: 2})])
    with pytest.raises(ValueError, match=r"molecule 0 the composition CH4 \(like 2 more of this"):
        model.predict(more, domain="raise")


def test_other_targets_have_no_forces():
    model = taught(ETHANOL, target="zpve")
    with pytest.raises(ValueError, match="so its zpve may be off by any amount: train"):
        model.predict(molecule(METHANE), domain="raise")


def test_close_atoms_are_said_too():
    data = molecule(METHANE)
    data.pos[1, 0] = 0.3
    with pytest.warns(UserWarning, match=r"apart|composition") as caught:
        taught(ETHANOL).predict(data, domain="warn")
    assert ["apart" in str(w.message) for w in caught] == [True, False]


def test_along_a_trajectory_each_composition_is_said_once():
    contacts = Contacts([taught(ETHANOL)])
    systems = [System(data.z, data.pos) for data in map(molecule, (METHANE, METHANOL))]
    contacts.check(System(*map(molecule(ETHANOL).get, ("z", "pos"))))
    for system, formula in zip(systems, ("CH4", "CH4O")):
        with pytest.warns(UserWarning, match=f"composition {formula} .*once of each composition"):
            contacts.check(system)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for system in systems * 2:
            contacts.check(system)
    contacts.domain = "raise"
    for _ in range(2):
        with pytest.raises(ValueError, match="CH4O"):
            contacts.check(systems[1])


def test_atoms_exchanged_in_place_and_other_batches():
    compositions = Compositions([taught(ETHANOL)])
    data = Batch.from_data_list([molecule({6: 1, 1: 3}), molecule({6: 1, 8: 1, 1: 3})])
    assert len(compositions.find(System(data.z, data.pos, data.batch))) == 2
    assert compositions.find(System(data.z, data.pos)) == {}  # together they are ethanol
    data.z[0] = 7
    assert compositions.find(System(data.z, data.pos)) == {0: "CH6NO"}


def test_ensembles_know_what_all_their_members_know():
    one, two = taught(ETHANOL, METHANE), taught(ETHANOL, {1: 2, 8: 1})
    two.reset_parameters()
    molecules = [molecule(it) for it in (ETHANOL, METHANE, {1: 2, 8: 1}, METHANOL)]
    assert list(found_in([one, two], *molecules)) == [1, 2, 3]
    assert list(found_in([one], *molecules)) == [2, 3]
    assert list(found_in([one, small_model()], *molecules)) == [2, 3]  # one does not know
    ensemble = Ensemble([one, two])
    ensemble.predict(molecules[0], domain="raise")
    with pytest.raises(ValueError, match="the composition CH4 is"):
        ensemble.predict(molecules[1], domain="raise")
    with pytest.warns(
        UserWarning, match="in molecule 1 the composition CH4 .like 2 more"
    ) as caught:
        ensemble.predict(Batch.from_data_list(molecules), domain="warn")
    assert caught[0].filename == __file__


def test_survives_files_copies_and_changes_of_type(tmp_path):
    model = taught(ETHANOL)
    expected = model.unseen.clone()
    model.save(tmp_path / "some.safetensors")
    loaded = SchNet.load(tmp_path / "some.safetensors")
    other = small_model()
    other.load_state_dict(model.state_dict())
    for same in (
        loaded,
        other,
        copy.deepcopy(model),
        model.bfloat16(),
        model.half(),
        model.double(),
    ):
        assert same.unseen.dtype == torch.float32
        assert torch.equal(same.unseen, expected)
    assert model.closest.dtype == torch.float64
    model.reset_parameters()
    assert torch.equal(model.unseen, expected)
    assert torch.equal(torch.nn.Sequential(model).half()[0].unseen, expected)
    assert model.to("meta").unseen.is_meta


def test_files_from_before_it_was_kept():
    state = small_model().state_dict()
    del state["unseen"]
    model = taught(ETHANOL)
    model.load_state_dict(state)  # weights whose training nobody knows
    assert not model.unseen.any()
    assert not SchNet.from_pretrained("qm9-u0").unseen.any()


@pytest.mark.parametrize("name", ["md17-ethanol", "qm9-u0"])
def test_trained_models_that_come_with_the_package(name):
    model, data = SchNet.from_pretrained(name), molecule(METHANOL)
    expected = {0: "CH4O"} if name == "md17-ethanol" else {}
    assert Compositions([model]).find(System(data.z, data.pos)) == expected
    assert Compositions([model]).find(System(molecule(ETHANOL).z, data.pos)) == {}
