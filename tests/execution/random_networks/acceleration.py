"""Compares `lasfast.accelerate` with PyTorch: in evaluation, in training, as states and as copies."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor, nn

import lasfast
from tests.execution.random_networks.cases import Case
from tests.execution.random_networks.near import (
    DifferenceError,
    TorchFailsError,
    attempted,
    changed,
    check_near,
    check_unchanged,
    context,
    expecting,
    flat,
    general,
    plain_of,
    run,
    state_of,
    torchs_of,
    truth_of,
)
from tests.execution.random_networks.programs import build


def _train(
    network: nn.Module, images: list[Tensor], context: torch.autocast
) -> list[tuple[str, list[Tensor]]]:
    """Return outputs, gradients and buffers of two steps."""
    found = []
    for step, batch in enumerate(images[:2]):
        leaf = batch.clone().requires_grad_()
        network.zero_grad()
        torch.manual_seed(step)
        x = leaf * 1.0
        with context:
            outputs = network(x)
        tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        wanted = [torch.linspace(-1, 1, one.numel(), dtype=one.dtype).view_as(one) for one in tensors]
        torch.stack([(one * by).sum() for one, by in zip(tensors, wanted, strict=True)]).sum().backward()
        parameters = sorted(network.named_parameters())
        given = [torch.zeros_like(p) if p.grad is None else p.grad for _, p in parameters]
        found.append((f"step {step}: outputs", flat(outputs)))
        found.append((f"step {step}: input as it is left", flat(x)))
        reaching = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        names = [*(name for name, _ in parameters), "the input"]
        found.append((f"step {step}: gradients of {names}", flat([*given, reaching])))
        buffers = dict(sorted(network.named_buffers()))
        found.append((f"step {step}: buffers {list(buffers)}", flat(list(buffers.values()))))
        # A step of a set length, but a shorter one where gradients cancel out, as of a norm ahead of a norm.
        norm, unit = _norm(given), 0.01 * _norm(wanted)
        with torch.no_grad():
            for _, parameter in parameters:
                if parameter.grad is not None:
                    parameter -= parameter.grad * (0.05 / (norm + unit))
    return found


def _norm(tensors: list[Tensor]) -> float:
    """Return the Euclidean norm of all values together."""
    return sum(float(one.double().square().sum()) for one in tensors) ** 0.5


def compare_acceleration(case: Case, seed: int) -> str:
    """Compare outputs, gradients, buffers, states and copies; return how far that went, or the refusal."""
    images, dtype = case.images(seed), getattr(torch, case.dtype)
    batches = [one.to(dtype, copy=True) for one in images]
    model = build(case.program, seed).to(dtype)
    before = state_of(model)
    try:
        ours = lasfast.accelerate(model)
    except ValueError as error:
        check_unchanged("a refused network", before, model)
        return f"refused: {general(error)}"
    except Exception as error:
        if attempted(lambda: plain_of(case, seed)(batches[0].clone())) is None:
            raise TorchFailsError("PyTorch fails in evaluation") from error
        raise DifferenceError(f"accelerate raises {type(error).__name__}: {str(error)[:300]}") from error
    check_unchanged("accelerate", before, model)
    _check_state(model, ours)
    with expecting(TorchFailsError, "what is done later"):
        modes = _modes(plain_of(case, seed))
    with expecting(DifferenceError, case.later):
        ours = changed(ours, case).to(dtype)
    torchs, truth = torchs_of(case, seed), truth_of(case, seed)
    for name, training in (("evaluation", False), ("training", None)):
        for one in (torchs, truth, ours):
            one.train(training is None)
        for one in (torchs, truth):
            _restore(one, modes if training is None else {})
        _restore(ours, modes if training is None else {})
        if training is None:
            true = attempted(lambda one=truth: _train(one, images, context(case)))
            plain = attempted(lambda one=torchs: _train(one, batches, context(case)))
            if true is None or plain is None:
                return "compared, but for training, which PyTorch cannot"
            with expecting(DifferenceError, "training"):
                mine = _train(ours, batches, context(case))
            for (what, a), (_, b), (_, c) in zip(mine, plain, true, strict=True):
                check_near(f"{name}: {what}", case, a, b, c)
            for one in (torchs, truth, ours):
                one.eval()
        with context(case):
            true = attempted(lambda one=truth: run(one, images[2]))
            plain = attempted(lambda one=torchs: run(one, batches[2]))
        if true is None or plain is None:
            raise TorchFailsError("PyTorch fails in evaluation")
        with expecting(DifferenceError, f"after {name}"), context(case):
            mine = run(ours, batches[2])
        check_near(f"{name}: outputs", case, mine[0], plain[0], true[0])
        check_near(f"{name}: input as it is left", case, [mine[1]], [plain[1]], [true[1]])
    _check_copies(case, seed, ours, batches[2])
    return "compared"


def _modes(network: nn.Module) -> dict[str, bool]:
    return {name: one.training for name, one in network.named_modules() if not one.training}


def _restore(network: nn.Module, modes: dict[str, bool]) -> None:
    """Put modules that a user froze in evaluation mode again."""
    for name, training in modes.items():
        network.get_submodule(name).training = training


def _check_state(model: nn.Module, ours: nn.Module) -> None:
    """Raise unless state dicts move both ways and parameters are shared."""
    theirs, mine = model.state_dict(), ours.state_dict()
    if list(theirs) != list(mine):
        raise DifferenceError(
            f"state dicts have other names: {theirs.keys() ^ mine.keys() or 'another order'}"
        )
    with expecting(DifferenceError, "loading a state dict"):
        ours.load_state_dict(theirs)
        model.load_state_dict(mine)
    parameters = dict(model.named_parameters())
    for name, one in ours.named_parameters():
        if one is not parameters.get(name):
            raise DifferenceError(f"parameter {name} is not the model's own")
    if set(parameters) != {name for name, _ in ours.named_parameters()}:
        raise DifferenceError("some parameters of the model are missing")


def _check_copies(case: Case, seed: int, ours: nn.Module, images: Tensor) -> None:
    """Raise unless what can be copied and pickled still can, to the same outputs."""
    clone = copy.deepcopy if seed % 2 else lambda one: pickle.loads(pickle.dumps(one))
    used, fresh = plain_of(case, seed).eval(), plain_of(case, seed).eval()
    if attempted(lambda: (run(used, images), clone(used), run(clone(fresh), images))) is None:
        return
    with expecting(DifferenceError, "copying"):
        found = run(clone(ours), images)[0]
    expected = run(ours, images)[0]
    check_near("outputs of a copy", case, found, expected, expected)
