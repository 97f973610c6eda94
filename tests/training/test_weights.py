"""Weights in one piece against plain PyTorch, where each parameter has memory of its own."""

import copy
import io
import pickle

import pytest
import torch
from molecules import random_molecule
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from training_runs import CONFIG, changed, new_model, same_state, without_time

from pyg_schnet import SchNet
from pyg_schnet.training import evaluate, fit
from pyg_schnet.training.weights import FlatWeights, MovingAverage

STEPS = 20


def frozen_in_part(model: SchNet) -> SchNet:
    """A model of which the embedding, a filter and a bias are not trained."""
    model.embedding.requires_grad_(False)
    model.interactions[0].conv.filter.requires_grad_(False)
    model.readout.lin1.bias.requires_grad_(False)
    return model


def trained_places(model: SchNet) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def random_gradients(models: list[SchNet], seed: int) -> None:
    """The same in all models, of magnitudes between 1e-4 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for places in zip(*map(trained_places, models), strict=True):
        gradient = torch.randn(places[0].shape, generator=generator)
        gradient *= 10 ** (-4 * torch.rand((), generator=generator))
        for parameter in places:
            if parameter.grad is None:
                parameter.grad = gradient.clone()
            else:
                parameter.grad.copy_(gradient)


def assert_close(one: SchNet, two: SchNet, rel: float = 1e-6) -> None:
    for (name, mine), (_, theirs) in zip(one.named_parameters(), two.named_parameters()):
        assert (mine - theirs).abs().max() <= rel * theirs.abs().max(), name


@pytest.mark.parametrize("prepare", [lambda model: model, frozen_in_part], ids=["all", "some"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_steps_are_those_of_separate_parameters(prepare, weight_decay):
    flat, separate, before = (prepare(new_model()) for _ in range(3))
    weights = FlatWeights(flat, weight_decay)
    optimizer = torch.optim.AdamW(weights.groups, lr=1e-2, fused=True)
    biases = [
        p
        for name, p in separate.named_parameters()
        if p.requires_grad and (name.endswith("bias") or name.startswith("embedding"))
    ]
    matrices = [p for p in trained_places(separate) if all(p is not bias for bias in biases)]
    reference = torch.optim.AdamW(
        [
            {"params": biases, "weight_decay": 0.0},
            {"params": matrices, "weight_decay": weight_decay},
        ],
        lr=1e-2,
        foreach=False,
    )
    for step in range(STEPS):
        random_gradients([flat, separate], seed=step)
        separate_norm = torch.cat([p.grad.flatten() for p in biases + matrices]).norm()
        assert weights.gradient_norm().item() == pytest.approx(separate_norm.item(), rel=1e-6)
        optimizer.step()
        reference.step()
    assert_close(flat, separate)
    learnt = 0
    for mine, start in zip(flat.parameters(), before.parameters(), strict=True):
        learnt += mine.requires_grad
        assert torch.equal(mine, start) is not mine.requires_grad
    assert learnt == len(trained_places(before)) == len(weights.parameters)
    weights.zero_grad()
    assert all(not p.grad.any() for p in weights.parameters)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_is_that_of_pytorch(decay):
    """With a decay that grows as (1 + n) / (10 + n)."""
    flat, separate = (frozen_in_part(new_model()) for _ in range(2))
    weights = FlatWeights(flat, 0.1)
    average = MovingAverage(flat, weights, decay)

    def growing(averaged, current, count):
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(now)(averaged, current, count)

    reference = AveragedModel(separate, multi_avg_fn=growing)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for places in zip(trained_places(flat), trained_places(separate), strict=True):
                noise = torch.randn(places[0].shape, generator=generator)
                for parameter in places:
                    parameter.add_(noise)
        average.update()
        reference.update_parameters(separate)
        assert_close(average.module, reference.module)
    assert int(average.n_averaged) == int(reference.n_averaged) == STEPS
    assert_close(flat, separate, rel=0.0)


def test_frozen_parameters_are_untouched(parts):
    model, before = frozen_in_part(new_model()), new_model()
    fit(model, *parts[:2], changed(CONFIG, weight_decay=1.0, clip_norm=1.0))
    for (name, mine), (_, start) in zip(model.named_parameters(), before.named_parameters()):
        assert torch.equal(mine, start) is not mine.requires_grad, name
        assert mine.grad is None


def test_a_model_trained_twice(parts):
    """The second run is that of another model with the same weights, tuned or not."""
    model = new_model()
    identities = [id(p) for p in model.parameters()]
    fit(model, *parts[:2], changed(CONFIG, epochs=1))
    assert [id(p) for p in model.parameters()] == identities  # a user's optimiser still has them
    other = new_model(seed=9)
    other.load_state_dict(model.state_dict())
    runs = [fit(frozen_in_part(one), *parts[:2], CONFIG) for one in (model, other)]
    assert without_time(runs[0]) == without_time(runs[1])
    assert same_state(model, other)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="no parameter to train: none has 'requires_grad'"):
        FlatWeights(new_model().requires_grad_(False), 0.0)


def test_parameters_of_two_kinds():
    model = new_model()
    model.readout.double()
    with pytest.raises(ValueError, match=r"float32 on cpu and torch\.float64 on cpu\): call"):
        FlatWeights(model, 0.0)


@pytest.mark.parametrize("name", ["fit", "a run that fails"])
def test_models_take_no_more_room_than_before(parts, tmp_path, name):
    """A view of a long tensor is pickled with all of it, once for each parameter."""
    torch.manual_seed(0)
    model = SchNet(64, 64, 2, num_gaussians=50, cutoff=4.0)
    fresh = copy.deepcopy(model)
    config = changed(CONFIG, epochs=None, max_steps=1, lr=1e-4)
    if name == "fit":
        fit(model, *parts[:2], config)
    else:
        with pytest.raises(TypeError, match="'log' must be a function"):
            fit(model, *parts[:2], config, log=3)
    evaluate(fresh, parts[1], "U0")  # it keeps the same samples of its basis
    evaluate(model, parts[1], "U0")

    def torch_size(content: object) -> int:
        file = io.BytesIO()
        torch.save(content, file)
        return len(file.getvalue())

    def file_size(one: SchNet) -> int:
        one.save(tmp_path / "model.safetensors")
        return (tmp_path / "model.safetensors").stat().st_size

    def sizes(one: SchNet) -> list[int]:
        weight = one.embedding.weight
        return [
            len(pickle.dumps(one)),
            len(pickle.dumps(copy.deepcopy(one))),
            len(pickle.dumps(weight)),
            torch_size(one.state_dict()),
            torch_size({"embedding": one.state_dict()["embedding.weight"]}),
            torch_size(one),
            file_size(one),
        ]

    for found, expected in zip(sizes(model), sizes(fresh), strict=True):
        assert found == pytest.approx(expected, rel=0.05)
    restored = pickle.loads(pickle.dumps(model))
    assert same_state(restored, model)


def test_trained_centres_are_seen():
    """Tables that were made of the centres before a step must not be used after it."""
    model, molecule = new_model(), random_molecule(6, dtype=torch.float32)
    model.mode = "table"
    bases = [block.conv.filter.basis for block in model.interactions]
    for basis in bases:
        centres = basis._buffers.pop("offset")
        basis.offset = nn.Parameter(centres, requires_grad=False)
    before = model.predict(molecule, forces=False)["energy"]  # keeps samples of the Gaussians
    for basis in bases:
        basis.offset.requires_grad_()
    weights = FlatWeights(model.eval(), 0.0)
    with torch.no_grad():
        for basis in bases:
            place = basis.offset.data_ptr() - weights.flat[0].data_ptr()
            start = place // basis.offset.element_size()
            weights.flat[0][start : start + basis.offset.numel()] += 0.3
    weights.changed()
    for basis in bases:
        basis.offset.requires_grad_(False)
    by_table = model.predict(molecule, forces=False)["energy"]
    model.mode = "exact"
    exact = model.predict(molecule, forces=False)["energy"]
    assert abs(by_table - exact) < 1e-3
    assert abs(by_table - before) > 1e-2
