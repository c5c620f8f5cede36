import copy
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import lasfast
from lasfast import costs
from lasfast.constraints import Bound, Constraint, NamedCost, UnknownCostError
from lasfast.data.images import TensorImages
from lasfast.evaluation.evaluator import Evaluator
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime.seeds import derive
from lasfast.searchers import Evolution, LayerNAS, Random, RegularizedEvolution
from lasfast.spaces import ChoiceSpace
from lasfast.spaces.choice import VirtualLayer
from lasfast.study.study import Callback, Study
from lasfast.supernets import ChoiceSupernet, LayerBuilder, ResidualNet
from lasfast.train import (
    OneShotTrainer,
    SandwichSampler,
    SupernetTrainer,
    TrainSettings,
    UniformCostSampler,
    UniformSampler,
)
from lasfast.train.curriculum import CHOICE

SEARCHERS = {
    "evolution": lambda space, cost, limit: Evolution(
        space,
        constraint=Constraint([Bound("flops", high=limit)], {"flops": cost}),
        population=4,
        generations=2,
        top=2,
    ),
    "layernas": lambda space, cost, limit: LayerNAS(space, cost=cost, target=(0, limit), evaluations=12),
    "regularized": lambda space, cost, limit: RegularizedEvolution(
        space, population=4, sample=2, evaluations=8
    ),
    "random": lambda space, cost, limit: Random(space, samples=6),
}
SETTINGS = TrainSettings(batch_size=16, supernet_epochs=3, learning_rate=0.05, weight_decay=0.01)


class TinyNet(ChoiceSupernet):
    """Three layers, each of one of two kernels or skipped, of a width that the last two share."""

    def __init__(self, num_classes=3):
        kernels = ["k1", "k3"]
        space = ChoiceSpace([[*kernels], VirtualLayer((4, 8), 2), [*kernels], [*kernels, "skip"]])
        super().__init__(space, num_classes=num_classes, in_channels=3)

    def stem(self):
        return (), 3

    def choice(self, index, taken, channels):
        if taken[0] == "skip":
            return (), channels
        block = LayerBuilder(f"layers.{index}.{taken[0]}", channels)
        width = 6 if index == 0 else taken[1]
        block.conv_bn_act("", block.input, width, int(taken[0][1:]))
        return (block.build(),), width

    def head(self, channels):
        block = LayerBuilder("classifier", channels)
        block.linear("fc", block.global_avg_pool(block.input), self.num_classes)
        return (block.build(),)


def make_supernet(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyNet()


def images(count=48):
    """Easy images: the class sets the mean of a channel."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    values = torch.randint(0, 128, (count, 3, 8, 8), generator=generator)
    values[torch.arange(count), labels] += 127
    return TensorImages(values.to(torch.uint8), labels, [0.4] * 3, [0.3] * 3, pad=1)


def flops(supernet):
    return costs.functions(supernet, (8, 8))["flops"]


def used(supernet, paths):
    """For each weight, which of its values some path reads: those that its extracted network has."""
    masks = {name: torch.zeros_like(tensor, dtype=torch.bool) for name, tensor in supernet.named_parameters()}
    for path in paths:
        for name, tensor in supernet.extract(path).named_parameters():
            masks[name][tuple(map(slice, tensor.shape))] = True
    return masks


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def momenta(optimizer, module):
    """The momentum of each weight, zeros before its first update."""
    for parameter in module.parameters():
        if optimizer.state[parameter].get("momentum_buffer") is None:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return {name: optimizer.state[one]["momentum_buffer"] for name, one in module.named_parameters()}


@pytest.mark.parametrize("kind", ["uniform", "sandwich"])
def test_a_batch_makes_one_update_with_the_sum_of_the_gradients(kind):
    supernet, data = make_supernet(), images()
    expected = copy.deepcopy(supernet)
    sampler = UniformSampler(supernet.space)
    if kind == "sandwich":
        sampler = SandwichSampler(supernet.space, flops(supernet))
    trainer = OneShotTrainer(supernet, data, SETTINGS, sampler=sampler)
    rates = [progress.learning_rate for progress in trainer.train(0)]

    optimizer = torch.optim.SGD(
        expected.parameters(), lr=1, momentum=0.9, nesterov=True, weight_decay=0.01, foreach=False
    )
    for epoch in range(3):
        for batch, (x, y) in enumerate(data.batches(16, derive(0, 0, epoch))):
            done = epoch * 3 + batch
            optimizer.param_groups[0]["lr"] = rates[done]
            expected.train()
            optimizer.zero_grad(set_to_none=True)
            paths = sampler.draw(random.Random(derive(0, 0, done, CHOICE)))
            assert len(paths) == (1 if kind == "uniform" else 4)
            sum(F.cross_entropy(expected(x, path), y) for path in paths).backward()
            before = copy.deepcopy((expected.state_dict(), momenta(optimizer, expected)))
            optimizer.step()
            # What no path reads of a weight is left alone, and so is its momentum.
            with torch.no_grad():
                for name, mask in used(expected, paths).items():
                    weight, momentum = expected.get_parameter(name), momenta(optimizer, expected)[name]
                    weight[~mask] = before[0][name][~mask]
                    momentum[~mask] = before[1][name][~mask]
    assert rates == pytest.approx([0.05 * (1 - done / 9) for done in range(9)])
    # (Running statistics take in a shared layer's batch once, not once for each path.)
    saved = trainer.state()[0]
    for name, tensor in expected.named_parameters():
        for ours, plain in (("weights", tensor), ("momentum", momenta(optimizer, expected)[name])):
            torch.testing.assert_close(saved[f"{ours}.{name}"], plain, rtol=1e-4, atol=1e-5, msg=name)


def test_it_learns_and_only_before_the_search():
    supernet = make_supernet()
    trainer = OneShotTrainer(supernet, images(), SETTINGS, supernet_epochs=20, learning_rate=0.2)
    assert not trainer.finished(0)
    first, *_, last = (one for one in trainer.train(0) if one.last_of_epoch)
    assert last.loss < 0.6 * first.loss
    assert all(trainer.finished(step) for step in range(4))
    with pytest.raises(ValueError, match="step must be 0, without candidates, got 1 with 1"):
        trainer.train(1, [supernet.space.sample(random.Random(0))])


def test_cut_anywhere_it_ends_with_the_same_weights():
    whole = make_supernet()
    list(OneShotTrainer(whole, images(), SETTINGS).train(0))
    first = make_supernet()
    trainer = OneShotTrainer(first, images(), SETTINGS)
    for progress in trainer.train(0):
        if progress.done == 5:
            break
    state = trainer.state()
    second = make_supernet(seed=1)
    resumed = OneShotTrainer(second, images(), SETTINGS)
    resumed.load_state(*state)
    list(resumed.train(0, start=resumed.position[1]))
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(second)[name]), name


def test_descriptions_tell_samplers_apart():
    supernet = make_supernet()
    cost = flops(supernet)
    samplers = [
        UniformSampler(supernet.space),
        UniformCostSampler(supernet.space, cost),
        UniformCostSampler(supernet.space, cost, bins=3),
        SandwichSampler(supernet.space, cost),
        SandwichSampler(supernet.space, cost, drawn=1),
    ]
    described = [
        json.dumps(OneShotTrainer(supernet, images(), SETTINGS, sampler=one).describe()) for one in samplers
    ]
    assert len(set(described)) == len(samplers)


def test_uniform_costs_are_uniform():
    supernet = make_supernet()
    cost = flops(supernet)
    sampler = UniformCostSampler(supernet.space, cost, bins=4)
    step = (sampler.high - sampler.low) / 4
    rng = random.Random(0)
    drawn = [sampler.draw(rng)[0] for _ in range(600)]
    bins = Counter(min(3, int((cost(one) - sampler.low) // step)) for one in drawn)
    assert len(bins) >= 3
    for count in bins.values():
        assert count == pytest.approx(600 / len(bins), rel=0.25)
    uniform = Counter(
        min(3, int((cost(supernet.space.sample(rng)) - sampler.low) // step)) for _ in range(600)
    )
    assert max(uniform.values()) > 1.5 * min(uniform.values())  # what it is for


def test_uniform_costs_stay_in_their_range():
    supernet = make_supernet()
    cost = flops(supernet)
    every = sorted(map(cost, supernet.space.enumerate()))
    low, high = every[5], every[-5]
    sampler = UniformCostSampler(supernet.space, cost, low, high)
    rng = random.Random(0)
    assert all(low <= cost(sampler.draw(rng)[0]) <= high for _ in range(200))
    with pytest.raises(ValueError, match="low and high must be a range of costs that architectures have"):
        UniformCostSampler(supernet.space, cost, 10 * every[-1])
    with pytest.raises(ValueError, match="low must be at most high"):
        UniformCostSampler(supernet.space, cost, every[-1], every[0])


def test_costs_that_no_random_architecture_has_are_trained_evenly():
    """Of 4^20 architectures, 2 in a thousand million cost at most 9; a pool of random ones holds none."""
    space = ChoiceSpace([4] * 20)
    sampler, rng = UniformCostSampler(space, lambda one: float(sum(one)), high=9, bins=3), random.Random(0)
    drawn = [sampler.draw(rng)[0] for _ in range(300)]
    assert max(Counter(drawn).values()) < 20
    assert len(set(drawn)) > 200
    bins = Counter(min(2, sum(one) // 3) for one in drawn)
    assert min(bins.values()) > 70


def test_what_turns_out_to_have_no_known_cost_is_not_drawn():
    space = ChoiceSpace([4] * 4)
    unknown = {}

    def cost(one):
        if one in unknown:
            raise UnknownCostError(f"{one} was not timed")
        return float(sum(one))

    sampler = UniformCostSampler(space, cost, bins=3)
    unknown = {one for one in space.enumerate() if one[0] == one[1]}
    assert not any(sampler.draw(random.Random(seed))[0] in unknown for seed in range(100))


def test_a_sandwich_has_the_largest_and_the_smallest():
    supernet = make_supernet()
    cost = flops(supernet)
    sampler = SandwichSampler(supernet.space, cost, drawn=3)
    every = list(supernet.space.enumerate())
    assert cost(sampler.largest) == max(map(cost, every))
    assert cost(sampler.smallest) == min(map(cost, every))
    drawn = sampler.draw(random.Random(0))
    assert drawn[:2] == (sampler.largest, sampler.smallest)
    assert len(drawn) == 5


def test_a_joint_step_sums_the_gradients_of_the_candidates():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = ResidualNet((2, 2, 2), num_classes=3)
    expected = copy.deepcopy(supernet)
    candidates = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
    settings = TrainSettings(batch_size=48, epochs_per_step=1, nesterov=False, weight_decay=0.0)
    trainer = SupernetTrainer(supernet, images(), settings, update="joint")
    list(trainer.train(1, candidates))
    x, y = next(images().batches(48, derive(0, 1, 0)))
    expected.train()
    sum(F.cross_entropy(expected(x, path), y) for path in [(2, 2, 2), *candidates]).backward()
    for (name, tensor), other in zip(supernet.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(
            tensor, (other - 0.05 * other.grad).detach(), rtol=1e-4, atol=1e-5, msg=name
        )


def test_a_joint_step_runs_shared_layers_once(monkeypatch):
    supernet = ResidualNet((2, 2, 2), num_classes=3)
    candidates = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
    ran = []
    run = supernet.layer_runner()
    monkeypatch.setattr(
        supernet, "layer_runner", lambda *_, **__: lambda layer, x: (ran.append(layer), run(layer, x))[1]
    )
    settings = TrainSettings(batch_size=48, epochs_per_step=1)
    list(SupernetTrainer(supernet, images(), settings, update="joint").train(1, candidates))
    plan = PrefixTree([supernet.path(one) for one in [(2, 2, 2), *candidates]])
    assert plan.sharing_ratio > 1.3
    assert ran == [node.layer for node in plan.nodes]


def test_bad_updates_are_named():
    with pytest.raises(ValueError, match="update must be one of 'sequential', 'joint', got 'both'"):
        SupernetTrainer(ResidualNet((1, 1, 1), num_classes=3), images(), SETTINGS, update="both")


class KillAt(Callback):
    """Kills the process after a batch of training, or after a step."""

    def __init__(self, batch=None, step=None):
        self.batch, self.step = batch, step

    def on_progress(self, progress):
        if progress.done == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step(self, step, measurements):
        if step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def tiny_study(directory, name, *callbacks):
    supernet = make_supernet()
    cost = flops(supernet)
    data = images(80)
    floats = (data.images[:, :, 1:-1, 1:-1] / 255 - 0.4) / 0.3  # without the padding
    evaluator = Evaluator(supernet, floats[:32], (floats[48:], data.labels[48:]))
    every = sorted(map(cost, supernet.space.enumerate()))
    limit = every[len(every) // 2]
    searcher = SEARCHERS[name](supernet.space, NamedCost("flops", cost), limit)
    trainer = OneShotTrainer(supernet, data, SETTINGS)
    return Study(
        searcher, evaluator, trainer=trainer, directory=directory, callbacks=callbacks, checkpoint_seconds=0
    )


def kill_each(directory):
    """Kill the studies of each searcher three times; no thread runs before a fork."""
    torch.set_num_threads(1)
    for name in SEARCHERS:
        tiny_study(directory / f"{name}-whole", name).run()
        for cut in (KillAt(batch=5), KillAt(batch=12), KillAt(step=1)):
            child = os.fork()
            if not child:
                tiny_study(directory / f"{name}-killed", name, cut).run(resume=True)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == signal.SIGKILL
        tiny_study(directory / f"{name}-killed", name).run(resume=True)


def test_studies_that_were_killed_end_with_the_same_bytes(tmp_path):
    root = Path(lasfast.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in SEARCHERS:
        for file in ("journal.jsonl", "checkpoint.safetensors", "result.json"):
            whole, killed = (tmp_path / f"{name}-{kind}" / file for kind in ("whole", "killed"))
            assert killed.read_bytes() == whole.read_bytes(), (name, file)


if __name__ == "__main__":
    kill_each(Path(sys.argv[1]))
