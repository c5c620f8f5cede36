"""SGD on parts of tensors against torch.optim.SGD on whole ones, and against the reference bit for bit."""

from __future__ import annotations

import math

import pytest
import torch

from lasfast.ops.sgd import Sgd, SgdRule, sgd_reference
from lasfast.runtime import compiled

needs_native = pytest.mark.skipif(not compiled.available(), reason="lasfast's compiled module is not built")
LAST = torch.channels_last
RULES = {
    "plain": SgdRule(),
    "decay": SgdRule(weight_decay=0.01),
    "momentum": SgdRule(momentum=0.9, weight_decay=0.01),
    "nesterov": SgdRule(momentum=0.9, nesterov=True),
    "all": SgdRule(momentum=0.9, nesterov=True, weight_decay=5e-4),
    "clipped": SgdRule(momentum=0.9, nesterov=True, weight_decay=5e-4, clip_norm=0.7),
}


def leading(*sizes):
    return tuple(slice(size) for size in sizes)


# (size, memory format, parts)
TENSORS = [
    ((7, 5, 3, 3), torch.contiguous_format, [leading(4, 3)]),
    ((7, 5, 3, 3), LAST, [leading(4, 3)]),
    ((7, 5, 3, 3), LAST, [leading(2, 4), (slice(2, 6), slice(0, 1))]),  # a staircase
    ((6, 1, 5, 5), LAST, [leading(5)]),  # depthwise
    ((9, 4, 1, 1), torch.contiguous_format, [leading(9, 4)]),
    ((11, 13), torch.contiguous_format, [leading(11, 6)]),
    ((70, 70), torch.contiguous_format, [()]),  # several chunks
    ((70, 70), torch.contiguous_format, [leading(65, 61)]),
    ((37,), torch.contiguous_format, [leading(10)]),
    ((3,), torch.contiguous_format, [()]),
    ((5,), torch.contiguous_format, []),  # nothing of it
    ((2, 3, 2, 2, 2, 2), torch.contiguous_format, [(slice(2), slice(1, 3), slice(1), slice(2), slice(1))]),
]


class Problem:
    """Tensors for a few updates."""

    def __init__(self, momentum, tensors=TENSORS, dtype=torch.float32, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def values(size, memory):
            memory = memory if len(size) == 4 else torch.contiguous_format
            return torch.randn(size, generator=generator, dtype=dtype).contiguous(memory_format=memory)

        self.weights = [values(size, memory) for size, memory, _ in tensors]
        self.momenta = [values(size, memory) for size, memory, _ in tensors] if momentum else None
        self.gradients = [[values(size, memory) for size, memory, _ in tensors] for _ in range(3)]
        self.indices = [indices for _, _, indices in tensors]
        self.decays = [number % 3 != 1 for number in range(len(tensors))]

    def copies(self):
        momenta = None if self.momenta is None else [one.clone() for one in self.momenta]
        return [one.clone() for one in self.weights], momenta

    def run(self, rule, scale=1.0):
        """[weights, momenta] after an update of each gradient, at falling rates."""
        weights, momenta = self.copies()
        sgd = Sgd(weights, momenta, self.indices, rule, self.decays)
        for number, gradients in enumerate(self.gradients):
            sgd.update(gradients, 0.1 / (number + 1), scale)
        return weights + (momenta or [])

    def expected(self, rule, scale=1.0):
        """The same by the reference."""
        weights, momenta = self.copies()
        for number, gradients in enumerate(self.gradients):
            tensors = zip(weights, gradients, momenta or [None] * len(weights), self.indices, strict=True)
            parts = [
                (w[at], g[at], None if m is None else m[at]) for w, g, m, indices in tensors for at in indices
            ]
            decays = [one for one, indices in zip(self.decays, self.indices, strict=True) for _ in indices]
            sgd_reference(parts, rule, 0.1 / (number + 1), scale, decays)
        return weights + (momenta or [])


def same(ones, others, equal=True):
    for number, (one, other) in enumerate(zip(ones, others, strict=True)):
        if equal:
            assert torch.equal(one, other), number
        else:
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6, msg=str(number))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_whole_tensors_as_torch_does(rule, dtype):
    problem = Problem(rule.momentum, dtype=dtype)
    problem.indices = [[()]] * len(problem.weights)
    weights, momenta = problem.copies()
    momentum = {"momentum": rule.momentum, "nesterov": rule.nesterov}
    groups = [
        {"params": [weight], "weight_decay": rule.weight_decay * decay}
        for weight, decay in zip(weights, problem.decays, strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, **momentum)
    for weight, buffer in zip(weights, momenta or [], strict=bool(momenta)):
        optimizer.state[weight]["momentum_buffer"] = buffer
    for number, gradients in enumerate(problem.gradients):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient * 0.5
        if rule.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(weights, rule.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (number + 1)
        optimizer.step()
    same(problem.run(rule, scale=0.5), weights + (momenta or []), equal=False)


@needs_native
@pytest.mark.parametrize("scale", [1.0, 1 / 1024])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_parts_on_the_cpu_as_the_reference_does_bit_for_bit(rule, scale):
    problem = Problem(rule.momentum)
    same(problem.run(rule, scale), problem.expected(rule, scale), equal=rule.clip_norm is None)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_emulated_cuda_agrees(rule, emulated_place):
    problem = Problem(rule.momentum)
    same(problem.run(rule), problem.expected(rule), equal=rule.clip_norm is None)
    same(problem.run(rule), problem.run(rule))


@pytest.mark.parametrize("rule", [RULES["all"], RULES["clipped"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_outside_of_the_parts_is_left_alone(rule, dtype):
    problem = Problem(rule.momentum, dtype=dtype)
    # Not even read: what is there may be anything.
    for tensors in (problem.weights, problem.momenta, *problem.gradients):
        for tensor, indices in zip(tensors, problem.indices, strict=True):
            outside = torch.ones_like(tensor, dtype=torch.bool)
            for index in indices:
                outside[index] = False
            tensor[outside] = math.nan
    after = problem.run(rule)
    for tensor, before, indices in zip(
        after, problem.weights + problem.momenta, problem.indices * 2, strict=True
    ):
        inside = torch.zeros_like(tensor, dtype=torch.bool)
        for index in indices:
            inside[index] = True
        assert torch.equal(tensor.isfinite(), inside)
        assert not (tensor == before).any()


@needs_native
def test_threads_do_not_change_the_bits():
    worth_sharing = ((250, 300), torch.contiguous_format, [()])  # for five threads (csrc/cpu/threads.h)
    problem = Problem(True, [*TENSORS, worth_sharing])
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        results.append(problem.run(RULES["clipped"]))
    torch.set_num_threads(threads)
    same(results[0], results[1])
    same(results[0], results[2])


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_values_that_are_not_finite_do_as_in_the_reference(rule, bad):
    problem = Problem(rule.momentum)
    problem.gradients[0][6][3, 5] = bad
    problem.weights[7][0, 0] = bad
    for one, other in zip(problem.run(rule), problem.expected(rule), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-6, atol=1e-6)


@needs_native
def test_gradients_may_lie_and_move_as_they_like():
    problem, expected = Problem(True), Problem(True)
    for gradients in problem.gradients:
        for number, gradient in enumerate(gradients):
            other = torch.contiguous_format if gradient.dim() != 4 else LAST
            gradients[number] = gradient.clone(memory_format=other)
        gradients[5] = gradients[5].t().contiguous().t()
    same(problem.run(RULES["all"]), expected.run(RULES["all"]))


@needs_native
def test_weights_that_moved_are_found():
    """As `module.to(memory_format=...)` does it: another memory, another layout, the same parameter."""
    weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2))
    momentum = torch.zeros_like(weight)
    expected = weight.detach().clone(), momentum.clone()
    sgd = Sgd([weight], [momentum], [[leading(3, 2)]], RULES["all"])
    for layout in (torch.contiguous_format, LAST, torch.contiguous_format):
        weight.data = weight.data.clone(memory_format=layout)
        gradient = torch.randn(4, 3, 2, 2)
        sgd.update([gradient], 0.1)
        part = leading(3, 2)
        sgd_reference([(expected[0][part], gradient[part], expected[1][part])], RULES["all"], 0.1)
    same([weight, momentum], expected)


@needs_native
def test_nothing_at_all_may_be_in_use():
    weight, momentum = torch.ones(3), torch.ones(3)
    for weights, momenta, indices in (([weight], [momentum], [[]]), ([], [], [])):
        Sgd(weights, momenta, indices, RULES["clipped"]).update([torch.ones(3)] * len(weights), 0.1)
    same([weight, momentum], [torch.ones(3)] * 2)


@needs_native
def test_autograd_notices():
    weight = torch.nn.Parameter(torch.ones(3))
    loss = (weight * weight).sum()
    Sgd([weight], None, [[()]], SgdRule()).update([torch.ones(3)], 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_does_not_fit_is_named():
    weight = torch.ones(3)
    with pytest.raises(ValueError, match=r"momenta must be None exactly if .*, got a momentum of 0\.9"):
        Sgd([weight], None, [[()]], RULES["all"])
    with pytest.raises(
        ValueError, match=r"momenta\[0\] must be .* \(3,\) on cpu as its weight is, got .* \(4,\)"
    ):
        Sgd([weight], [torch.ones(4)], [[()]], RULES["all"])
    with pytest.raises(ValueError, match="indices must have 1 lists, one for each weight, got 2"):
        Sgd([weight], None, [[()], [()]], SgdRule())
    with pytest.raises(ValueError, match="decays must have 1 bools, one for each weight, got 0"):
        Sgd([weight], None, [[()]], SgdRule(), [])
    sgd = Sgd([weight], None, [[()]], SgdRule())
    with pytest.raises(
        ValueError, match=r"gradients\[0\] must be torch.float32 .*, got torch.float64 \(3,\) on cpu"
    ):
        sgd.update([torch.ones(3, dtype=torch.float64)], 0.1)
    with pytest.raises(ValueError, match="gradients must have 1 tensors, one for each weight, got 0"):
        sgd.update([], 0.1)


@pytest.mark.cuda
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_cuda_agrees_and_waits_for_nothing(rule):
    problem = Problem(rule.momentum)
    expected = problem.expected(rule)
    for name in ("weights", "momenta"):
        tensors = getattr(problem, name)
        setattr(problem, name, None if tensors is None else [one.cuda() for one in tensors])
    problem.gradients = [[one.cuda() for one in gradients] for gradients in problem.gradients]
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours, again = problem.run(rule), problem.run(rule)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    same(ours, again)
    same([one.cpu() for one in ours], expected, equal=False)
