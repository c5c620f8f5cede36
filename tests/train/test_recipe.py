"""The settings of a recipe, each alone and with others: what they give is finite, resumes, and repeats."""

import copy
import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from lasfast.data import Augmentation, TensorImages
from lasfast.execution.interpret import run_op
from lasfast.ir import layers
from lasfast.supernets import CellNet, MobileNet, PlainNet, ResidualNet, ResNet50, from_model
from lasfast.train import (
    PRESETS,
    ITNASTrainer,
    OneShotTrainer,
    StandaloneTrainer,
    SupernetTrainer,
    TrainSettings,
    preset,
    train_standalone,
)
from lasfast.train.mixing import Mixing
from lasfast.train.objective import class_weights, losses
from lasfast.train.regularize import (
    RATE,
    DropPath,
    DropPathRate,
    auxiliary_head,
    auxiliary_place,
    branches,
    with_drop_path,
    with_dropout,
)

BOTH = {
    "adamw": {"optimizer": "adamw", "learning_rate": 0.003, "weight_decay": 0.05},
    "rmsprop": {"optimizer": "rmsprop", "beta2": 0.9, "eps": 1.0},
    "plain-momentum": {"nesterov": False, "momentum": 0.5},
    "no-bias-decay": {"bias_decay": False},
    "clip": {"clip_norm": 1.0},
    "jitter": {"augmentation": Augmentation(color_jitter=(0.2, 0.2))},
    "policy": {"augmentation": Augmentation(auto_augment="trivialaugment", cutout=3)},
    "randaugment": {
        "augmentation": Augmentation(
            auto_augment="randaugment", randaugment_layers=1, randaugment_magnitude=5
        )
    },
    "erasing": {"augmentation": Augmentation(random_erasing=0.5, crop="resized", flip=True)},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "mixes": {"mixup": 0.2, "cutmix": 1.0},
    "smoothing": {"label_smoothing": 0.1},
    "balanced": {"class_weights": "balanced"},
    "dropout": {"dropout": 0.5},
    "bf16": {"precision": "bf16", "loss_scale": 128.0},
    "planes": {"channels_last": False},
    "exponential": {
        "supernet_schedule": "exponential",
        "standalone_schedule": "exponential",
        "exponential_end": 0.1,
    },
    "supernet-cosine": {"supernet_schedule": "cosine", "supernet_ramp_epochs": 0.5},
}
"""Settings of supernets and of networks on their own."""
ALONE = BOTH | {
    "cosine": {"standalone_schedule": "cosine", "standalone_ramp_epochs": 0.5},
    "milestones": {"milestones": (0.5, 1.5), "milestone_factor": 0.5},
    "average": {"standalone_ema": 0.9},
    "drop-path": {"standalone_drop_path": 0.5},
    "drop-path-later": {"standalone_drop_path": 0.5, "standalone_drop_path_rule": "epochs"},
    "auxiliary": {"standalone_auxiliary": 0.4},
    "best": {"standalone_keep_best": True},
    "patience": {"standalone_early_stopping": 1},
}
SETTINGS = TrainSettings(
    batch_size=8, learning_rate=0.02, supernet_epochs=2, standalone_epochs=2, milestones=(1,)
)


LENGTHS = {"batch_size", "warm_up_epochs", "epochs_per_step", "supernet_epochs", "standalone_epochs"}
"""Settings that all of these have."""


def test_every_setting_is_tried():
    tried = {name for values in ALONE.values() for name in values}
    others = LENGTHS | {"operators", "seed", "batch_norm"}  # which tests of several processes change
    assert {field.name for field in dataclasses.fields(TrainSettings)} == tried | others
    varied = {
        name for values in ALONE.values() for name in values.get("augmentation", Augmentation()).describe()
    }
    assert {field.name for field in dataclasses.fields(Augmentation)} == varied


def images(size=8, count=24):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    values = torch.randint(0, 128, (count, 3, size, size), generator=generator)
    values[torch.arange(count), labels] += 127
    return TensorImages(values.to(torch.uint8), labels, [0.4] * 3, [0.3] * 3, pad=1)


def supernet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResidualNet((1, 1, 1), num_classes=3)


def alone(overrides, **more):
    """A trainer of a network, which gets worse with each epoch if it is asked."""
    values = itertools.count(0, -1)
    settings = SETTINGS.replace(**overrides)
    more = {"validate": lambda network: next(values)} | more
    return StandaloneTrainer.of(supernet(), (1, 1, 1), images(), settings, **more)


def one_shot(overrides):
    return OneShotTrainer(supernet(), images(), SETTINGS.replace(**overrides))


def check(make, overrides):
    """Train twice, the second time in two parts."""
    first = make(overrides)
    run = first.train() if isinstance(first, StandaloneTrainer) else first.train(0)
    batches = first.epochs(0) * first.batches
    cut = random.Random(str(overrides)).randrange(batches)
    states = [copy.deepcopy(first.state())]
    progress = []
    for one in run:
        progress.append(one)
        states.append(copy.deepcopy(first.state()))
    assert len(progress) == batches
    assert math.isfinite(progress[-1].loss)
    assert not all(torch.equal(states[0][0][name], one) for name, one in states[-1][0].items())
    second = make(overrides)
    second.load_state(*states[cut])
    rest = second.train() if isinstance(second, StandaloneTrainer) else second.train(0, start=cut)
    assert len(list(rest)) == batches - cut
    tensors, values = second.state()
    assert values == states[-1][1]
    assert tensors.keys() == states[-1][0].keys()
    for name, one in tensors.items():
        assert torch.equal(one, states[-1][0][name]), name
    return first


EACH = [(name, "torch") for name in ALONE if name not in BOTH or name == "dropout"]
EACH += [(name, "native") for name in ("drop-path", "auxiliary", "dropout", "mixes", "adamw")]


@pytest.mark.parametrize(("name", "operators"), EACH)
def test_each_trains_a_network(name, operators):
    trainer = check(alone, {"operators": operators} | ALONE[name])
    logits = trainer.trained.eval()(torch.zeros(2, 3, 8, 8))
    assert logits.shape == (2, 3)
    assert {name.partition(".")[0] for name in trainer.trained.state_dict()} == {
        "stem",
        "groups",
        "classifier",
    }


@pytest.mark.parametrize("name", BOTH)
def test_each_trains_a_supernet(name):
    check(one_shot, {"operators": "torch"} | BOTH[name])


def nir(overrides):
    return SupernetTrainer(supernet(), images(), SETTINGS.replace(**overrides), warm_up_epochs=2)


def itnas(overrides):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CellNet(num_classes=3, cells=3, channels=4)
    return ITNASTrainer(net, images(), SETTINGS.replace(**overrides), batch_size=6, supernet_epochs=1)


@pytest.mark.parametrize("make", [nir, itnas])
def test_other_trainers_take_a_recipe(make):
    names = ("adamw", "no-bias-decay", "mixes", "smoothing", "balanced", "dropout", "policy")
    recipe = {key: value for name in names for key, value in BOTH[name].items()}
    check(make, {"operators": "torch"} | recipe)


PAIRS = [
    (make, one, other)
    for make, known in ((alone, ALONE), (one_shot, BOTH))
    for one, other in itertools.combinations(known, 2)
]


def check_pair(pair):
    make, one, other = pair
    known = ALONE[one], ALONE[other]
    merged = {"operators": "torch"} | known[0] | known[1]
    if all("augmentation" in values for values in known):
        merged["augmentation"] = Augmentation(
            **known[0]["augmentation"].describe() | known[1]["augmentation"].describe()
        )
    check(make, merged)


@settings(max_examples=6)
@given(strategies.sampled_from(PAIRS))
def test_pairs_of_them_work_together(pair):
    check_pair(pair)


@pytest.mark.slow
def test_all_pairs_of_them_work_together():
    for pair in PAIRS:
        check_pair(pair)


def small_network(settings):
    """A trainer of a small network, of cells for DARTS' recipes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cells = settings.standalone_auxiliary > 0
        net = CellNet(num_classes=3, cells=3, channels=4) if cells else supernet()
    architecture = net.space.sample(random.Random(0)) if cells else (1, 1, 1)
    return StandaloneTrainer.of(net, architecture, images(16), settings)


@pytest.mark.slow
@pytest.mark.parametrize("operators", ["native", "torch"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains(name, operators):
    short = {"batch_size": 8, "standalone_epochs": 2, "supernet_epochs": 2, "operators": operators}
    settings = preset(name, **short)
    check(small_network, settings)
    check(lambda settings: OneShotTrainer(supernet(), images(16), settings), settings)


# What each of them does.


class Block(nn.Module):
    """A residual block of somebody's, who adds the other way round, and has a projection in the shortcut."""

    def __init__(self, before, channels):
        super().__init__()
        self.first = nn.Conv2d(before, channels, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.shortcut = nn.Conv2d(channels, channels, 1) if channels > 16 else nn.Identity()

    def forward(self, x):
        x = self.first(x).relu()
        return (self.shortcut(x) + self.branch[1](self.branch[0](x).relu())).relu()


def test_residual_branches_are_found():
    counts = {}
    for name, net, architecture in (
        ("plain", PlainNet((2, 2, 2), num_classes=3), (2, 2, 2)),
        ("residual", ResidualNet((2, 2, 2), num_classes=3), (2, 1, 2)),
        ("projection", ResidualNet((1, 2, 1), num_classes=3, shortcut="projection"), (1, 2, 1)),
        ("resnet50", ResNet50((2, 1, 1, 1), num_classes=3), (2, 1, 1, 1)),
    ):
        path = net.path(architecture)
        counts[name] = sum(len(branches(layer)) for layer in path)
        for layer in path:
            for value in branches(layer):
                assert layer.ops[value - 1].module.rpartition(".")[2] in ("bn2", "bn3")
    assert counts == {"plain": 0, "residual": 5, "projection": 4, "resnet50": 5}
    net = from_model(nn.Sequential(Block(3, 16), Block(16, 32), nn.Flatten(), nn.Linear(2048, 3)), (3, 8, 8))
    path = net.extracted_path(net.full)
    assert sum(len(branches(layer)) for layer in path) == 2
    net = MobileNet("60M", num_classes=3, stem="cifar", width=0.2)
    path = net.path(net.space.sample(random.Random(0)))
    sums = sum(type(op).__name__ == "Add" for layer in path for op in layer.ops)
    assert sum(len(branches(layer)) for layer in path) == sums > 3


def test_cells_drop_the_edges_that_are_not_the_identity():
    net = CellNet(num_classes=3, cells=3, channels=8)
    architecture = net.space.parse(net.published["darts-v2"])
    (normal, reduction), path = net.space.cells(architecture), net.path(architecture)

    def dropped(cell, reduces):
        edges = [edge for pair in cell for edge in pair]
        return sum(edge.operation != "skip_connect" or (reduces and edge.source < 2) for edge in edges)

    expected = [dropped(reduction if shape.reduces else normal, shape.reduces) for shape in net.shapes]
    assert [len(branches(layer)) for layer in path[1:4]] == expected
    dropping = with_drop_path(path, "epochs")
    drops = [op for layer in dropping for op in layer.ops if isinstance(op, DropPath)]
    assert {op.share for op in drops} == {1.0}
    assert len(drops) == sum(len(branches(layer)) for layer in path)


def test_the_deeper_a_branch_the_more_often_it_is_dropped():
    path = ResidualNet((2, 1, 1), num_classes=3).path((2, 1, 1))
    dropping = with_drop_path(path, "depth")
    assert [op.share for layer in dropping for op in layer.ops if isinstance(op, DropPath)] == [
        0.25,
        0.5,
        0.75,
        1.0,
    ]
    with pytest.raises(ValueError, match="standalone_drop_path must be 0 for a network without residual"):
        with_drop_path(PlainNet((1, 1, 1), num_classes=3).path((1, 1, 1)), "depth")


def test_dropped_images_are_zeros_and_the_others_larger():
    rate, network = DropPathRate(), nn.Identity()
    rate.probability = 0.5
    modules = {"": network, RATE: rate}
    x = torch.rand(4000, 2, 1, 1) + 1
    torch.manual_seed(0)
    y = run_op(DropPath(share=0.5), modules, x)
    dropped = (y == 0).flatten(1).all(1)
    assert 0.22 < dropped.float().mean() < 0.28
    torch.testing.assert_close(y[~dropped], x[~dropped] / 0.75)
    network.eval()
    assert torch.equal(run_op(DropPath(share=0.5), modules, x), x)


def test_drop_path_rises_with_the_epochs():
    trainer = alone(ALONE["drop-path-later"])
    seen = [trainer.forward.rate.probability for _ in trainer.train()]
    assert seen == [0.0] * 3 + [0.25] * 3
    constant = alone(ALONE["drop-path"])
    assert {constant.forward.rate.probability for _ in constant.train()} == {0.5}


def test_the_auxiliary_head_is_that_of_darts():
    net = CellNet(num_classes=3, cells=4, channels=8)
    path = net.path(net.space.sample(random.Random(0)))
    place = auxiliary_place(path)
    cell = net.shapes[place - 1]
    assert cell.index == 2 * 4 // 3
    # On the maps of 8x8 and 7x7 that DARTS has, its strides; on others two by two positions, too.
    for size, window in {2: (1, 1), 4: (2, 2), 6: (5, 1), 7: (5, 2), 8: (5, 3), 14: (7, 7)}.items():
        image = (3, 4 * size, 4 * size)
        head = auxiliary_head(path, image)
        pool = next(op for op in head.ops if isinstance(op, layers.Pool))
        assert (pool.kernel_size, pool.stride) == window
        assert head.ops[0].channels == 4 * cell.channels
        outputs = [shapes[-1] for _, shapes in layers.path_shapes(path, image)]
        assert outputs[place] == (head.ops[0].start + 4 * cell.channels, size, size)
        shapes = head.shapes(outputs[place])
        assert shapes[head.ops.index(pool) + 1] == (4 * cell.channels, 2, 2)
        assert shapes[-1] == (3,)


def test_the_auxiliary_loss_reaches_the_layers_before_it():
    plain, helped = alone({}), alone({"standalone_auxiliary": 0.4})
    assert {name.partition(".")[0] for name in helped.module.state_dict()} == {"network", "auxiliary"}
    next(iter(plain.train()))
    next(iter(helped.train()))
    pairs = zip(plain.network.named_parameters(), helped.network.parameters(), strict=True)
    different = {name.partition(".")[0] for (name, one), other in pairs if not torch.equal(one, other)}
    assert different == {"stem", "groups"}


def test_a_dropout_takes_the_place_of_the_networks():
    for before in (0.0, 0.3):
        layer = PlainNet((1, 1, 1), num_classes=3, dropout=before).path((1, 1, 1))[-1]
        after = with_dropout(layer, 0.5)
        kinds = [type(op).__name__ for op in after.ops]
        last = [op for op in after.ops if type(op).__name__ == "Dropout"][-1]
        assert last.p == 0.5
        assert kinds[-2:] == ["Dropout", "Linear"]


def test_mixed_batches_have_shares_of_classes():
    x, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 3
    for overrides in (BOTH["mixup"], BOTH["cutmix"], BOTH["mixes"]):
        mix = Mixing(TrainSettings(**overrides), 3)
        mixed, shares = mix(x, labels, 5)
        assert torch.equal(mixed, mix(x, labels, 5)[0])
        assert not torch.equal(mixed, mix(x, labels, 6)[0])
        torch.testing.assert_close(shares.sum(1), torch.ones(6))
        share = shares[torch.arange(6), labels]  # the rest is of the image before
        assert torch.equal((shares > 0).sum(1), torch.full((6,), 2))
        assert torch.unique(share.round(decimals=5)).numel() == 1


def test_class_weights_are_scikit_learns_and_each_image_counts_by_itself():
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    weights = class_weights(TrainSettings(class_weights="balanced"), labels, 3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    whole = losses([logits], labels, 0.0, weights)
    by_hand = nn.functional.cross_entropy(logits, labels, reduction="none") * weights[labels]
    torch.testing.assert_close(whole[0], by_hand.mean())
    parts = [losses([logits[rows]], labels[rows], 0.1, weights) for rows in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(losses([logits], labels, 0.1, weights), (2 * parts[0] + 4 * parts[1]) / 6)
    hot = nn.functional.one_hot(labels).float()
    torch.testing.assert_close(losses([logits], hot, 0.1, weights), losses([logits], labels, 0.1, weights))
    with pytest.raises(ValueError, match="class_weights must be 3, one for each class, got 2"):
        class_weights(TrainSettings(class_weights=(1, 2)), labels, 3)
    with pytest.raises(ValueError, match="class_weights must be numbers where a class, here 3, has no"):
        class_weights(TrainSettings(class_weights="balanced"), labels, 4)
    with pytest.raises(ValueError, match="class_weights must be numbers for images whose labels are not"):
        class_weights(TrainSettings(class_weights="balanced"), None, 3)


def test_training_stops_and_keeps_the_best():
    values = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9]
    given, states = iter(values), []

    def validate(network):
        assert network is trainer.network
        states.append(copy.deepcopy(network.state_dict()))
        return next(given)

    overrides = {
        "standalone_epochs": 6,
        "milestones": (),
        "standalone_early_stopping": 3,
        "standalone_keep_best": True,
    }
    trainer = alone(overrides, validate=validate)
    assert len(list(trainer.train())) == 15
    assert trainer.stopped
    assert trainer.finished
    assert list(trainer.train()) == []
    best = trainer.trained
    assert best is not trainer.network
    for name, one in best.state_dict().items():
        assert torch.equal(one, states[1][name]), name
    other = alone(overrides, validate=validate)
    other.load_state(*trainer.state())
    assert other.finished
    assert all(map(torch.equal, other.trained.state_dict().values(), best.state_dict().values()))
    with pytest.raises(ValueError, match=r"validate must be given for standalone_early_stopping and"):
        alone(overrides, validate=None)
    with pytest.raises(ValueError, match="standalone_keep_best must be False for train_standalone, got True"):
        train_standalone(trainer.network, images(), SETTINGS, standalone_keep_best=True, validate=validate)


@pytest.mark.parametrize(
    ("overrides", "none"),
    [
        ({"dropout": 0.5}, "None"),
        ({"standalone_drop_path": 0.5}, "0"),
        ({"standalone_auxiliary": 0.4}, "0"),
    ],
)
def test_networks_whose_layers_are_not_known_are_refused(overrides, none):
    (name, value), network = *overrides.items(), supernet().extract((1, 1, 1))
    with pytest.raises(ValueError, match=rf"{name} must be {none} for a network whose .* got {value}"):
        StandaloneTrainer(network, images(), SETTINGS, **overrides)


def test_other_momenta_are_refused_where_layers_change():
    net = supernet()
    network = net.extract((1, 1, 1))
    network.stem.bn.momentum = 0.3
    with pytest.raises(
        ValueError, match=r"network must have batch norms of momentum 0.1 .*, got 0.3 of 'ste"
    ):
        StandaloneTrainer(network, images(), SETTINGS, path=net.path((1, 1, 1)), dropout=0.5)


def test_images_too_small_for_an_auxiliary_head_are_refused():
    small = TensorImages(torch.zeros(9, 3, 2, 2, dtype=torch.uint8), torch.arange(9) % 3, [0.5] * 3, [1] * 3)
    settings = SETTINGS.replace(standalone_auxiliary=0.4)
    with pytest.raises(ValueError, match=r"standalone_auxiliary must be 0 where .* got \(64, 1, 1\)"):
        StandaloneTrainer.of(supernet(), (1, 1, 1), small, settings)
