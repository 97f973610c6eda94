"""Atoms too close: bounds worked out by hand, and the same flags from all interfaces."""

import copy
import warnings

import pytest
import torch
from molecules import small_model
from torch_geometric.data import Batch, Data

from pyg_schnet import Ensemble, SchNet
from pyg_schnet.nn.contacts import Contacts
from pyg_schnet.nn.system import System


def taught(closest: dict[tuple[int, int], float], **overrides) -> SchNet:
    """A model that was trained on pairs at these distances."""
    model = small_model(units="eV", **overrides)
    for (z, w), distance in closest.items():
        model.closest[z, w] = model.closest[w, z] = distance
    return model


WATER = {(1, 8): 0.9, (1, 1): 1.4}


def water(oh: float, angle_to: float = 1.5) -> Data:
    """Two hydrogens at right angles."""
    pos = torch.tensor([[0.0, 0.0, 0.0], [oh, 0.0, 0.0], [0.0, angle_to, 0.0]])
    return Data(z=torch.tensor([8, 1, 1]), pos=pos.double())


@pytest.mark.parametrize(("oh", "close"), [(0.811, False), (0.809, True)])  # 0.9 of 0.9 is 0.81
def test_below_nine_tenths_of_the_closest_in_training(oh, close):
    found = Contacts([taught(WATER)]).find(System(*map(water(oh).get, ("z", "pos"))))
    assert list(found) == ([0] if close else [])
    if close:
        assert "atoms 0 (Z = 8) and 1 (Z = 1) are 0.809 A apart, less than 0.9 of" in found[0]
        assert "(0.900 A)" in found[0]


def test_a_kept_look_goes_by_the_molecule_at_hand():
    contacts = Contacts([taught(WATER)])
    fine, close = water(1.0), water(0.8)
    assert not contacts.find(System(fine.z, fine.pos))
    assert contacts.find(System(fine.z, close.pos))  # the atoms have moved
    swapped = System(torch.tensor([1, 8, 1]), fine.pos)  # H - H at 1.5 is now O - H, at 1.8 H - H
    assert not contacts.find(swapped)
    assert contacts.find(System(torch.tensor([1, 1, 8]), fine.pos))  # H - H at 1.0


def test_pairs_of_other_species_have_their_own_bound():
    data = water(1.0)
    data.pos[2] = torch.tensor([1.0, 1.2, 0.0])  # H - H, below 0.9 * 1.4
    with pytest.raises(ValueError, match=r"atoms 1 .Z = 1. and 2 .Z = 1. are 1.200 A"):
        taught(WATER).predict(data, domain="raise")


def test_pairs_never_seen_are_too_close_within_nine_tenths_of_the_cutoff():
    model = taught({**WATER, (8, 8): 9.0})
    pair = Data(z=torch.tensor([8, 6]), pos=torch.tensor([[0.0, 0, 0], [0, 0, 3.59]]).double())
    with pytest.raises(ValueError, match=r"no such pair is within the cutoff .4 A."):
        model.predict(pair, domain="raise")
    pair.pos[1, 2] = 3.61
    model.predict(pair, domain="raise")
    pair.z[1], pair.pos[1, 2] = 8, 3.59  # seen beyond the cutoff only, which is as good as never
    with pytest.raises(ValueError, match="the model has learned nothing"):
        model.predict(pair, domain="raise")


@pytest.mark.parametrize("keep", [True, False])
def test_images_of_periodic_systems(keep):
    z, pos = torch.tensor([8]), torch.zeros(1, 3)
    contacts = Contacts([taught({(8, 8): 3.0})], keep=keep)
    for edge, close in ((2.71, False), (2.69, True), (2.71, False)):
        cell = torch.diag(torch.tensor([9.0, 9.0, edge]))
        found = contacts.find(System(z, pos, cell=cell.unsqueeze(0)))
        assert bool(found) == close
        open_along_it = torch.tensor([[True, True, False]])
        assert not contacts.find(System(z, pos, cell=cell.unsqueeze(0), pbc=open_along_it))


def test_each_molecule_of_a_batch_and_padding():
    padded = water(1.0)
    padded.z[2], padded.pos[2] = 0, padded.pos[1] + 0.01
    batch = Batch.from_data_list([water(1.0), water(0.7), padded, water(0.6, 0.65)])
    found = Contacts([taught(WATER)]).find(System(batch.z, batch.pos, batch.batch))
    assert list(found) == [1, 3]
    assert "atoms 0 (Z = 8) and 1 (Z = 1) are 0.700 A" in found[1]
    with pytest.raises(ValueError, match=r"in molecule 1 atoms 0 .* 0.700 A"):
        taught(WATER).predict(batch, domain="raise")


def test_models_that_know_nothing_go_by_covalent_radii():
    """Half of 0.31 + 0.66 A."""
    contacts = Contacts([small_model()])
    for oh, close in ((0.487, False), (0.483, True)):
        found = contacts.find(System(*map(water(oh).get, ("z", "pos"))))
        assert bool(found) == close
    assert "half the sum of their covalent radii (0.485 A)" in found[0]


def test_ensembles_know_what_all_their_members_know():
    wide, narrow = taught({(8, 1): 0.9, (1, 1): 1.0}), taught({(8, 1): 0.6, (1, 1): 1.4})
    narrow.reset_parameters()
    ensemble = Ensemble([wide, narrow])
    ensemble.predict(water(0.82), domain="raise")
    for data in (water(0.80), water(0.95, 0.6)):
        with pytest.raises(ValueError, match="has learned nothing"):
            ensemble.predict(data, domain="raise")


def test_predictions_are_the_same_and_silent_unless_asked():
    model, data = taught(WATER), water(0.5)
    expected = model.predict(data)
    with pytest.warns(UserWarning, match="has learned nothing"):
        result = model.predict(data, domain="warn")
    assert torch.equal(result["forces"], expected["forces"])
    with pytest.raises(ValueError, match=r"'domain' must be 'warn', 'raise' or 'ignore'.*'shout'"):
        model.predict(data, domain="shout")


def test_along_a_trajectory_it_is_said_once():
    contacts = Contacts([taught(WATER)])
    system = System(*map(water(0.5).get, ("z", "pos")))
    with pytest.warns(UserWarning, match="this is said once"):
        contacts.check(system)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contacts.check(system)


def test_survives_files_copies_and_changes_of_type(tmp_path):
    model = taught(WATER)
    model.save(tmp_path / "some.safetensors")
    loaded = SchNet.load(tmp_path / "some.safetensors")
    other = small_model()
    other.load_state_dict(model.state_dict())
    for same in (loaded, other, copy.deepcopy(model), model.float().double()):
        assert torch.allclose(same.closest, taught(WATER).closest)
    model.reset_parameters()
    assert model.closest[1, 8] == pytest.approx(0.9)


def test_files_from_before_it_was_kept():
    state = small_model().state_dict()
    del state["closest"]
    model = taught(WATER)
    model.load_state_dict(state)  # weights whose training nobody knows
    assert model.closest.isinf().all()
    wrapped = torch.nn.Sequential(taught(WATER))
    wrapped.load_state_dict({f"0.{name}": value for name, value in state.items()})
    assert wrapped[0].closest.isinf().all()
