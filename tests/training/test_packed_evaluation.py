"""Evaluation on packed batches against the ordinary one."""

import gc
import weakref

import pytest
import torch
from training_runs import averaging, molecules_with_gaps, new_model, paper
from waits import Strangers, Waits, on_meta

from pyg_schnet import RadiusGraph, SchNet, ops
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.training import Labelled, evaluate
from pyg_schnet.training.packed_evaluation import PackedPredictor
from pyg_schnet.training.packing import pack

GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA device")
MODELS = {"cosine": new_model, "all pairs": paper, "mean": averaging}


@pytest.fixture(scope="module")
def molecules():
    return molecules_with_gaps()


def predictor_of(model: SchNet, molecules, batch_size: int = 32, forces: bool = True):
    packed = pack(model, molecules, Labelled.read(molecules, "energy"), forces)
    return PackedPredictor(model, packed, batch_size, forces)


def assert_same(one, two, rtol=1e-5):
    for a, b in ((one, two), (one.forces, two.forces)):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.units == b.units
            scale = b.predicted.abs().max()
            assert torch.allclose(a.predicted, b.predicted, rtol=rtol, atol=rtol * float(scale))
            assert torch.allclose(a.reference, b.reference, rtol=1e-7, equal_nan=True)
            assert a.mae == pytest.approx(b.mae, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 32, 1000])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_the_same_errors(kind, frozen, batch_size, molecules):
    """Of molecules some of whose labels are unknown, in batches of which the last has 6."""
    model, forces = MODELS[kind](), kind != "mean"
    if frozen:
        model.freeze()
    ways = [
        evaluate(model, molecules, batch_size=batch_size, forces=forces, packed=packed)
        for packed in (True, False)
    ]
    assert ways[0].reference.isnan().sum() == 10
    assert_same(*ways)


def test_float64(molecules):
    model = new_model().double()
    model.mode = "table"
    exact = [data.clone() for data in molecules]
    for data in exact:
        data.pos, data.force = data.pos.double(), data.force.double()
    ways = [evaluate(model, exact, forces=True, packed=packed) for packed in (True, False)]
    assert_same(*ways, rtol=1e-12)


def test_it_follows_the_weights(molecules):
    model = new_model()
    predict = predictor_of(model, molecules)
    before = predict()[0].clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after, forces = predict()
    assert not torch.allclose(before, after)
    expected = evaluate(model, molecules, forces=True, packed=False)
    assert torch.allclose(after, expected.predicted, rtol=1e-5, atol=1e-5)
    assert torch.allclose(forces.flatten().double(), expected.forces.predicted, atol=1e-4)


def test_it_never_waits(molecules):
    predict = predictor_of(paper(), molecules)
    with Waits() as waits:
        predict()
    assert waits.count == 0


def test_a_batch_stays_on_its_device(molecules):
    """On the device "meta" nothing has a value: whatever looks at one fails."""
    model, labels = new_model(), Labelled.read(molecules, "energy")
    model.mode = "table"
    with ops.backend("reference"):
        packed = pack(model, molecules, labels, forces=True)
        on_meta(packed)
        packed.device = torch.device("meta")
        predict = PackedPredictor(model.to("meta"), packed, 32, forces=True)
        with Strangers() as strangers:
            predict._step()
    assert strangers.strange == []
    assert strangers.seen > 100


def test_what_goes_the_ordinary_way(molecules):
    exact, hooked, turned = new_model(), new_model(), QM9Sample()[:20].copy()
    exact.mode = "exact"
    hooked.readout.register_forward_hook(lambda *args: None)
    turned.transform = RadiusGraph(4.0)
    for model, data, settings, reason in (
        (exact, molecules, {}, "filters are evaluated on edges"),
        (hooked, molecules, {}, "a part of the model is not the original"),
        (new_model(), turned, dict(label="U0"), "the data have a transform"),
        (new_model(), molecules, dict(stress=True), "stress is asked for"),
    ):
        with pytest.raises(ValueError, match=f"packed=True, but {reason}"):
            evaluate(model, data, packed=True, **settings)
    assert evaluate(exact, molecules).mae > 0


def test_what_is_wrong_is_noticed(molecules):
    model = new_model()
    model.species[:] = False
    model.species[[1, 6]] = True
    with pytest.warns(UserWarning, match=r"not trained on: \[7, 8\]") as warned:
        evaluate(model, molecules[:20], packed=True)
    assert warned[0].filename == __file__
    model = new_model()
    with torch.no_grad():
        model.embedding.weight[6] = torch.nan
    with pytest.raises(ValueError, match="prediction 0 is nan"):
        evaluate(model, molecules, packed=True)
    far = [data.clone() for data in molecules[:3]]
    far[1].pos[0, 0] = 3e19
    with pytest.raises(
        ValueError, match=r"but coordinates in torch.float32 must be below 5.3e\+18"
    ):
        evaluate(new_model(), far, packed=True)


@pytest.mark.parametrize("packed", [False, True])
def test_either_way_complains_of_the_same(packed, molecules):
    def errors(model=None, data=molecules, **settings):
        return evaluate(new_model() if model is None else model, data, packed=packed, **settings)

    with pytest.raises(ValueError, match="no molecule has a label"):
        errors(data=[molecules[1]])
    with pytest.raises(ValueError, match=r"'batch_size' must be at least 1 \(got 0\)"):
        errors(batch_size=0)
    with pytest.raises(ValueError, match="of an energy; the model predicts"):
        errors(averaging(), forces=True)
    infinite = [data.clone() for data in molecules[:3]]
    infinite[2].energy[:] = torch.inf
    with pytest.raises(ValueError, match=r"label 2 is inf|molecule 2 .* inf"):
        errors(data=infinite)


def test_labels_are_not_rounded(molecules):
    short = [data.clone() for data in molecules[:5]]
    for data in short:
        data.pos, data.force = data.pos.half(), 100.0 * data.force.double()
    found = evaluate(new_model(), short, forces=True, packed=True).forces
    expected = torch.cat([data.force.flatten() for data in short])
    assert torch.equal(found.reference.isnan(), expected.isnan())
    assert (found.reference - expected).nan_to_num().abs().max() == 0


def test_nothing_is_kept(molecules):
    """The memory of a device is free as soon as an evaluation is done."""
    gc.collect()
    gc.disable()
    try:
        predict = predictor_of(new_model(), molecules)
        predict()
        kept = weakref.ref(predict._output)
        del predict
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("kind", MODELS)
def test_on_a_gpu(kind, molecules):
    """By default, as one CUDA graph; a capture that fails would warn, which is an error."""
    model = MODELS[kind]()
    expected = evaluate(model, molecules, batch_size=10, forces=kind != "mean")
    predict = predictor_of(model.cuda(), molecules, 10, forces=kind != "mean")
    predict()
    assert predict._step.is_captured
    found = evaluate(model, molecules, batch_size=10, forces=kind != "mean")
    assert_same(found, expected, rtol=1e-4)
    assert torch.allclose(predict()[0].cpu(), found.predicted, rtol=1e-6)
