"""Distillation and smoothed labels, against the formulas of their papers written out in PyTorch."""

import copy
import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lasfast.data.images import TensorImages
from lasfast.evaluation.evaluator import Evaluator
from lasfast.measurements.journal import JournalError
from lasfast.runtime.seeds import derive
from lasfast.searchers import NIR
from lasfast.spaces import CellSpace
from lasfast.study.study import Study
from lasfast.supernets import CellNet, ResidualNet
from lasfast.train import (
    Distillation,
    ITNASTrainer,
    OneShotTrainer,
    SandwichSampler,
    StandaloneTrainer,
    SupernetTrainer,
    TrainSettings,
    train_standalone,
)
from lasfast.train.curriculum import CHOICE
from lasfast.train.objective import losses, soft_loss
from tests.train.test_one_shot import flops, images, make_supernet

SETTINGS = TrainSettings(
    batch_size=16,
    supernet_epochs=2,
    warm_up_epochs=0,
    epochs_per_step=1,
    standalone_epochs=2,
    milestones=(1,),
    learning_rate=0.05,
    weight_decay=0.0,
    momentum=0.0,
    nesterov=False,
)
CANDIDATES = [(2, 1, 1), (1, 2, 1)]


def residual(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResidualNet((2, 2, 2), num_classes=3, **options)


def cell_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CellNet(3, 3, cells=3, channels=4, space=CellSpace(2, ["max_pool_3x3", "skip_connect"]))


def alone(architecture, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return residual(dropout=0.3).extract(architecture, fresh=True)


def teacher(seed=5):
    """One whose batch norms have seen images; in training mode, with dropout, but for one norm."""
    network = alone((1, 1, 1), seed)
    x, _ = next(images().batches(48, 0))
    with torch.random.fork_rng():
        for _ in range(5):
            network(x)
    next(part for part in network.modules() if isinstance(part, nn.BatchNorm2d)).eval()
    return network


def modes(network):
    return [part.training for part in network.modules()]


def assert_close(module, expected):
    for (name, one), other in zip(module.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=name)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def hinton(logits, targets, temperature):
    """T^2 times the sum over classes of p log(p / q), the mean over images."""
    q, p = (one.div(temperature).softmax(1) for one in (logits, targets))
    return temperature**2 * (p * (p / q).log()).sum(1).mean()


def test_the_soft_loss_is_hintons():
    logits, targets = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 3.0):
        expected = hinton(logits.double(), targets.double(), temperature)
        assert soft_loss(logits, targets, temperature).item() == pytest.approx(expected.item(), rel=1e-5)
    assert soft_loss(logits, logits, 2.0) == 0
    # The factor keeps the size of gradients: for high temperatures, they are (z - v) / classes (their Eq. 4).
    z = logits.double().requires_grad_()
    centred = [one - one.mean(1, keepdim=True) for one in (logits.double(), targets.double())]
    (gradient,) = torch.autograd.grad(soft_loss(z, targets.double(), 1e3) * len(z), z)
    torch.testing.assert_close(gradient, (centred[0] - centred[1]) / 7, rtol=2e-2, atol=2e-3)


def test_smoothed_labels_are_szegedys():
    """Of K classes, the right one has 1 - e + e / K, and each other one e / K (section 7)."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    target = 0.9 * F.one_hot(labels, 5) + 0.1 / 5
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    (loss,) = losses([logits], labels, 0.1)
    assert loss.item() == pytest.approx(expected.item())


def test_all_trainers_smooth_labels():
    def first_loss(label_smoothing, make):
        trainer = make(TrainSettings(batch_size=48, supernet_epochs=1, label_smoothing=label_smoothing))
        return next(iter(trainer.train(0))).loss

    makers = [
        lambda settings: OneShotTrainer(make_supernet(), images(), settings),
        lambda settings: SupernetTrainer(residual(), images(), settings),
        lambda settings: StandaloneTrainer(residual().extract((1, 1, 1)), images(), settings),
        lambda settings: ITNASTrainer(cell_net(), images(), settings),
    ]
    for make in makers:
        plain, smoothed = first_loss(0.0, make), first_loss(0.5, make)
        uniform = 2 * (smoothed - 0.5 * plain)  # the cross entropy with all classes alike
        assert smoothed != plain
        assert uniform > math.log(3)


@pytest.mark.parametrize("operators", ["native", "torch"])
def test_the_largest_of_a_sandwich_teaches_the_others(operators):
    supernet = make_supernet()
    expected = copy.deepcopy(supernet)
    sampler = SandwichSampler(supernet.space, flops(supernet))
    distill = Distillation("full", temperature=2.0, weight=0.7)
    trainer = OneShotTrainer(
        supernet, images(), SETTINGS, sampler=sampler, distill=distill, operators=operators
    )
    progress = list(trainer.train(0))
    expected.train()
    losses = []
    for epoch in range(2):
        for batch, (x, y) in enumerate(images().batches(16, derive(0, 0, epoch))):
            paths = sampler.draw(random.Random(derive(0, 0, epoch * 3 + batch, CHOICE)))
            logits = [expected(x, path) for path in paths]
            hard = [F.cross_entropy(one, y) for one in logits]
            soft = [hinton(one, logits[0].detach(), 2.0) for one in logits]
            each = [
                hard[number] if path == sampler.largest else 0.3 * hard[number] + 0.7 * soft[number]
                for number, path in enumerate(paths)
            ]
            gradients = torch.autograd.grad(sum(each), list(expected.parameters()), allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
                    if gradient is not None:
                        parameter -= progress[epoch * 3 + batch].learning_rate * gradient
            losses.append(sum(one.item() for one in each) / len(each))
    assert_close(supernet, expected)
    assert progress[-1].loss == pytest.approx(sum(losses[3:]) / 3, rel=1e-3)


@pytest.mark.parametrize("update", ["sequential", "joint"])
def test_the_deepest_teaches_the_candidates(update):
    supernet = residual()
    expected = copy.deepcopy(supernet).train()
    trainer = SupernetTrainer(supernet, images(), SETTINGS, update=update, distill="full", batch_size=48)
    (progress,) = trainer.train(1, CANDIDATES)
    x, y = next(images().batches(48, derive(0, 1, 0)))
    parameters = list(expected.parameters())

    def step(loss):
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter -= progress.learning_rate * gradient

    deepest = expected(x, (2, 2, 2))
    targets = deepest.detach()
    if update == "joint":
        step(
            F.cross_entropy(deepest, y)
            + sum(hinton(expected(x, candidate), targets, 1.0) for candidate in CANDIDATES)
        )
    else:
        step(F.cross_entropy(deepest, y))
        for candidate in CANDIDATES:
            step(hinton(expected(x, candidate), targets, 1.0))
    assert_close(supernet, expected)


@pytest.mark.parametrize("operators", ["native", "torch"])
def test_a_network_learns_from_another_which_stays_as_it_is(operators):
    given = teacher()
    before, mode = copy.deepcopy(given.state_dict()), modes(given)
    assert len(set(mode)) == 2
    network = residual().extract((1, 2, 1))
    expected = copy.deepcopy(network).train()
    distill = Distillation(given, temperature=3.0, weight=0.6)
    trainer = StandaloneTrainer(network, images(), SETTINGS, distill=distill, operators=operators)
    progress = list(trainer.train())
    assert_same(given.state_dict(), before)
    assert modes(given) == mode
    assert not any(one.grad is not None for one in given.parameters())

    judge = copy.deepcopy(given).eval()
    for epoch in range(2):
        for batch, (x, y) in enumerate(images().batches(16, derive(0, 0, epoch))):
            logits = expected(x)
            loss = 0.4 * F.cross_entropy(logits, y) + 0.6 * hinton(logits, judge(x).detach(), 3.0)
            gradients = torch.autograd.grad(loss, list(expected.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
                    parameter -= progress[epoch * 3 + batch].learning_rate * gradient
    assert_close(network, expected)


def test_a_teacher_alone_says_what_is_right():
    """Of labels that are all the same, a network learns what its teacher says of the images."""
    good = residual().extract((1, 1, 1))
    list(train_standalone(good, images(), SETTINGS, standalone_epochs=20, milestones=(15,)))
    unpadded, right = images().images[:, :, 1:-1, 1:-1], images().labels
    data = TensorImages(unpadded, torch.zeros_like(right), [0.4] * 3, [0.3] * 3, pad=1)
    student = residual(1).extract((1, 1, 1))
    list(train_standalone(student, data, SETTINGS, standalone_epochs=20, milestones=(15,), distill=good))
    with torch.no_grad():
        assert (student.eval()((unpadded / 255 - 0.4) / 0.3).argmax(1) == right).float().mean() > 0.9


MAKERS = {
    "sandwich": lambda seed, **options: OneShotTrainer(
        (supernet := make_supernet(seed)),
        images(),
        SETTINGS,
        sampler=SandwichSampler(supernet.space, flops(supernet)),
        **{"distill": "full", **options},
    ),
    "one-shot": lambda seed, **options: OneShotTrainer(
        make_supernet(seed), images(), SETTINGS, **{"distill": teacher(), **options}
    ),
    "alone": lambda seed, **options: StandaloneTrainer(
        alone((1, 2, 1), seed),
        images(),
        SETTINGS,
        **{"distill": teacher(), **options},
    ),
}


def train(trainer, batches=None):
    start = trainer.position[1]
    steps = trainer.train(start) if isinstance(trainer, StandaloneTrainer) else trainer.train(0, start=start)
    return list(itertools.islice(steps, batches))


@pytest.mark.parametrize("kind", MAKERS)
def test_it_resumes_to_the_same_bits_with_the_same_teacher_alone(kind):
    whole = MAKERS[kind](0)
    train(whole)
    part = MAKERS[kind](0)
    train(part, 4)
    tensors, values = part.state()
    resumed = MAKERS[kind](1)
    resumed.load_state(tensors, values)
    train(resumed)
    assert_same(resumed.state()[0], whole.state()[0])

    others = [None, Distillation(teacher(6)), Distillation(teacher(), temperature=2.0)]
    if kind != "alone":
        others.append(Distillation(teacher(), weight=0.5))
    for other in others:
        trainer = MAKERS[kind](1, distill=other)
        before = trainer.state()[0]
        with pytest.raises(ValueError, match=r"distill must be as the saved .* trained, {'teacher'"):
            trainer.load_state(tensors, values)
        assert_same(trainer.state()[0], before)
    plain = MAKERS[kind](0, distill=None)
    assert set(plain.state()[1]) == {"position"}
    train(plain)
    assert any(not torch.equal(one, whole.state()[0][name]) for name, one in plain.state()[0].items())


def test_a_teacher_that_changes_later_teaches_as_it_was():
    given = teacher()
    trainers = [MAKERS["alone"](0, distill=given) for _ in range(2)]
    train(trainers[0])
    with torch.no_grad():
        for parameter in given.parameters():
            parameter.zero_()
    train(trainers[1])
    assert_same(trainers[1].state()[0], trainers[0].state()[0])


def test_a_study_goes_on_with_the_same_teacher_alone(tmp_path):
    def study(distill):
        supernet = residual()
        data = images(80)
        floats = (data.images[:, :, 1:-1, 1:-1] / 255 - 0.4) / 0.3
        evaluator = Evaluator(supernet, floats[:32], (floats[48:], data.labels[48:]))
        trainer = SupernetTrainer(supernet, data, SETTINGS, distill=distill)
        return Study(NIR(supernet.space, depth=4), evaluator, trainer=trainer, directory=tmp_path)

    study(teacher()).run()
    study(teacher()).run(resume=True)
    for other, here in ((teacher(6), "[0-9a-f]{32}"), ("full", "full")):
        with pytest.raises(JournalError, match=rf"trainer.distill.teacher is '[0-9a-f]+' there and '{here}'"):
            study(other).run(resume=True)
    with pytest.raises(JournalError, match=r"trainer.distill is {.*} there and 'nothing' here"):
        study(None).run(resume=True)


@pytest.mark.parametrize("kind", ["sandwich", "alone"])
def test_bf16_learns_about_the_same(kind):
    fp32, bf16 = (train(MAKERS[kind](0, precision=precision))[-1] for precision in ("fp32", "bf16"))
    assert bf16.loss == pytest.approx(fp32.loss, rel=0.1)
    assert bf16.loss != fp32.loss


def test_bad_teachers_are_named():
    supernet = residual()
    network = supernet.extract((1, 1, 1))
    with pytest.raises(ValueError, match="distill must be a network, or 'full' where each batch trains the"):
        StandaloneTrainer(network, images(), SETTINGS, distill="full")
    with pytest.raises(ValueError, match="distill must be a network, or 'full' where each batch trains the"):
        OneShotTrainer(supernet, images(), SETTINGS, distill="full")
    with pytest.raises(TypeError, match="teacher must be a network or 'full', got 'deepest'"):
        SupernetTrainer(supernet, images(), SETTINGS, distill="deepest")
    with pytest.raises(TypeError, match=r"teacher must be a network that .* got a ResidualNet"):
        SupernetTrainer(supernet, images(), SETTINGS, distill=residual())
    with pytest.raises(TypeError, match=r"a training setting must be one of .* got 'distill'"):
        ITNASTrainer(cell_net(), images(), SETTINGS, distill=network)
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(ValueError, match=r"logits \(16, 3\), as the network in training does, got \(16, 4\)"):
        list(train_standalone(network, images(), SETTINGS, distill=wrong))

    class Several(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(TypeError, match="a teacher that gives a tensor of logits, got a tuple"):
        list(train_standalone(network, images(), SETTINGS, distill=Several()))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"temperature": 0}, ValueError, "temperature must be above 0, got 0"),
        ({"temperature": math.inf}, ValueError, "temperature must be a finite number, got inf"),
        ({"weight": 1.5}, ValueError, r"weight must be from 0 to 1, got 1.5"),
        ({"weight": -0.1}, ValueError, r"weight must be at least 0, got -0.1"),
        ({"weight": True}, TypeError, "weight must be a real number, got True"),
    ],
)
def test_bad_options_are_named(options, error, text):
    with pytest.raises(error, match=text):
        Distillation("full", **options)
