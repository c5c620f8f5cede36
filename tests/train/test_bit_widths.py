"""Supernets with bit widths to choose: what an update changes of them, and a search from end to end."""

import copy
import random

import pytest
import torch

import lasfast
from lasfast import costs
from lasfast.constraints import Constraint
from lasfast.searchers import Evolution
from lasfast.supernets import QuantResNet
from lasfast.train import OneShotTrainer, PathSampler, StandaloneTrainer, TrainSettings


class Fixed(PathSampler):
    """One architecture, again and again."""

    def __init__(self, architecture):
        self.architecture = architecture

    def draw(self, rng):
        return (self.architecture,)

    def describe(self):
        return {"name": "fixed"}


@pytest.fixture(scope="module")
def data():
    return lasfast.data.load("digits", limit=300, validation=120, calibration=100)


@pytest.fixture
def supernet(data, one_thread):
    torch.manual_seed(0)
    return QuantResNet(10, data.channels, stem="cifar", width=0.125)


def alphas(supernet):
    return {n: one.detach().clone() for n, one in supernet.named_parameters() if n.endswith("alpha")}


@pytest.mark.parametrize("operators", ["native", "torch"])
def test_an_update_moves_the_clips_in_use_and_no_others(supernet, data, operators: str) -> None:
    """Alpha decays as weights do: by rate x decay x alpha, and 0.9 times that by Nesterov's momentum."""
    if operators == "native" and not lasfast.runtime.compiled.available():
        pytest.skip("lasfast's compiled module is not built")
    before, after = alphas(supernet), {}
    architecture = supernet.space.parse("-".join(["0.5-w3a4"] * 8))
    for decay in (0.0, 0.1):
        one = copy.deepcopy(supernet)
        settings = TrainSettings(
            batch_size=100, supernet_epochs=1, learning_rate=0.01, weight_decay=decay, operators=operators
        )
        trainer = OneShotTrainer(one, data.train, settings, sampler=Fixed(architecture))
        next(trainer.train(0))
        after[decay] = alphas(one)
    for name, value in before.items():
        used = ".a4." in name
        assert torch.equal(after[0.0][name], value) != used, name
        decayed = after[0.0][name] - after[0.1][name]
        assert decayed == pytest.approx(0.01 * 0.1 * 3 * 1.9 if used else 0, abs=1e-5)


def test_training_lowers_the_loss_and_repeats_bit_for_bit(supernet, data) -> None:
    again = copy.deepcopy(supernet)
    sampler = Fixed(supernet.space.parse("-".join(["1.0-w1a4", "1.5-w2a2"] * 4)))
    for one in (supernet, again):
        trainer = OneShotTrainer(one, data.train, "small", sampler=sampler, supernet_epochs=10)
        losses = {progress.epoch: progress.loss for progress in trainer.train(0)}
    for one, other in zip(supernet.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert losses[9] < losses[0] - 0.3


def test_evolution_within_bit_operations_from_end_to_end(supernet, data, tmp_path) -> None:
    space, known = supernet.space, costs.functions(supernet, data.image_size)
    limit = known["bitops"](space.parse("-".join(["1.0-w2a2"] * 8)))
    constraint = Constraint(f"bitops<={limit}", known)
    searcher = Evolution(space, constraint=constraint, population=5, generations=2, top=3)
    evaluator = lasfast.Evaluator(supernet, data.calibration, data.validation, backend="torch")
    trainer = OneShotTrainer(supernet, data.train, "small", supernet_epochs=1)
    result = lasfast.Study(searcher, evaluator, trainer=trainer, directory=tmp_path / "run").run()
    measured = [architecture for step in searcher.history for architecture, _ in step]
    assert len(measured) == 15
    assert all(known["bitops"](one) <= limit for one in measured)
    best = result.best.architecture
    assert result.best.costs["bitops"] == known["bitops"](best)
    assert f"{known['bitops'](best) / 1e6:.1f} Mbitops" in str(result.best)
    front = result.front("bitops")
    assert front[-1].top1 == result.highest.top1
    network = evaluator.extract(best)
    images, labels = data.validation
    assert float((network(images).argmax(1) == labels).sum()) == round(result.best.top1 * len(labels))

    trainer = StandaloneTrainer.of(supernet, best, data.train, TrainSettings(batch_size=100))
    clips = [one for name, one in trainer.module.named_parameters() if name.endswith("alpha")]
    next(trainer.train())
    assert len(clips) == 16
    assert all(one != 3 for one in clips)


def test_sandwiches_hold_the_dearest_and_the_cheapest(supernet, data) -> None:
    known = costs.functions(supernet, data.image_size)
    sampler = lasfast.train.SandwichSampler(supernet.space, known["bitops"], drawn=1)
    largest, smallest, _ = sampler.draw(random.Random(0))
    assert supernet.space.format(largest) == "-".join(["1.5-w4a4"] * 8)
    assert supernet.space.format(smallest) == "-".join(["0.5-w1a2"] * 8)
