"""Images that do not fit a network: each way to run it names the layer, and runs nothing."""

import pytest
import torch

import lasfast
from lasfast import costs, latency, supernets
from lasfast.execution import interpret
from lasfast.train import OneShotTrainer, SupernetTrainer

ARCHITECTURE = (1, 1, 1)
IMAGES, LABELS = torch.randn(8, 3, 16, 16), torch.zeros(8, dtype=torch.int64)
PAIR = (IMAGES, LABELS)
MESSAGE = (
    r"images of shape \(3, 16, 16\) do not fit this network: layer 'classifier': classifier.fc1: "
    r"expects 4096 features, got a value of shape \(1024,\)"
)


@pytest.fixture(scope="module")
def plain() -> supernets.PlainNet:
    return supernets.PlainNet((2, 2, 2), 7, image_size=32)


@pytest.fixture
def nothing_runs(monkeypatch) -> None:
    def refused(*arguments):
        raise AssertionError("no layer may run")

    monkeypatch.setattr(interpret, "run_op", refused)
    monkeypatch.setattr(torch.nn.functional, "conv2d", refused)


OF_EVALUATOR = {
    "call": lambda evaluator: evaluator([ARCHITECTURE]),
    "race": lambda evaluator: evaluator.race([ARCHITECTURE, (1, 1, 2)], keep=1),
    "statistics": lambda evaluator: evaluator.statistics(ARCHITECTURE),
    "extract": lambda evaluator: evaluator.extract(ARCHITECTURE),
    "costs": lambda evaluator: evaluator.costs(ARCHITECTURE),
}


@pytest.mark.parametrize("budget", [None, 10**6])
@pytest.mark.parametrize("method", OF_EVALUATOR)
def test_evaluators_refuse(nothing_runs, backend: str, plain, method: str, budget: int | None) -> None:
    evaluator = lasfast.Evaluator(plain, IMAGES, PAIR, backend, memory_budget=budget)
    with pytest.raises(ValueError, match=MESSAGE):
        OF_EVALUATOR[method](evaluator)


def test_batches_of_a_loader_are_each_checked(backend: str, plain) -> None:
    """They may differ in size."""
    fitting = torch.randn(4, 3, 32, 32)
    evaluator = lasfast.Evaluator(plain, [fitting, IMAGES], (fitting, LABELS[:4]), backend)
    with pytest.raises(ValueError, match=MESSAGE):
        evaluator([ARCHITECTURE])


TRAINERS = {
    "steps": lambda net, **settings: SupernetTrainer(net, PAIR, **settings).train(1, [ARCHITECTURE]),
    "beforehand": lambda net, **settings: OneShotTrainer(net, PAIR, **settings).train(0),
}


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("operators", ["native", "torch"])
def test_trainers_refuse(nothing_runs, plain, trainer: str, operators: str) -> None:
    with pytest.raises(ValueError, match=MESSAGE):
        next(TRAINERS[trainer](plain, operators=operators))


@pytest.mark.parametrize("operators", ["native", "torch"])
def test_training_from_scratch_refuses(nothing_runs, plain, operators: str) -> None:
    evaluator = lasfast.StandaloneEvaluator(plain, PAIR, PAIR, standalone_epochs=1, operators=operators)
    with pytest.raises(ValueError, match=MESSAGE):
        evaluator([ARCHITECTURE])


@pytest.mark.parametrize("timed_by", ["native", "torch"])
def test_latencies_refuse(nothing_runs, plain, tmp_path, timed_by: str) -> None:
    with pytest.raises(ValueError, match=MESSAGE):
        latency.build(plain, (16, 16), tmp_path / "table.json", backend=timed_by)


@pytest.mark.parametrize("cost", [costs.flops, costs.memory])
def test_costs_refuse(plain, cost) -> None:
    with pytest.raises(ValueError, match=MESSAGE):
        cost(plain, ARCHITECTURE, (16, 16))
