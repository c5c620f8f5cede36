"""Training by graphs that are replayed, with a recorder that stands in for CUDA's, and on CUDA."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lasfast.supernets import PlainNet, ResidualNet
from lasfast.train import OneShotTrainer, StandaloneTrainer, SupernetTrainer, TrainSettings
from lasfast.train.passes import Passes

SETTINGS = TrainSettings(
    batch_size=8, warm_up_epochs=1, epochs_per_step=2, learning_rate=0.05, weight_decay=0.01
)
CANDIDATES = [(2, 1, 1), (1, 2, 1)]


def images(count=40):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    values = torch.randn(count, 3, 8, 8, generator=generator)
    values[torch.arange(count), labels] += 2
    return values, labels


def supernet(kind=ResidualNet, seed=0):
    options = {"image_size": 8, "dropout": 0.5} if kind is PlainNet else {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind((2, 2, 2), num_classes=3, **options)


def tensors_of(result):
    values, gradients, full_logits = result
    return [one for one in (values, *gradients, full_logits) if one is not None]


class Recorder:
    """What CUDA graphs do, on the CPU: the work is taken down once, and done anew into the same results.

    Taking it down changes nothing; its results are there, and hold nothing yet. Whatever the work reads at a
    replay has to lie where it lay when it was recorded.
    """

    def __init__(self, module):
        self.module = module
        self.recorded = 0
        self.replayed = 0

    def __call__(self, work):
        self.recorded += 1
        before = copy.deepcopy(self.module.state_dict())
        state = torch.get_rng_state()
        result = work()
        torch.set_rng_state(state)
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                tensor.copy_(before[name])
        for tensor in tensors_of(result):
            tensor.fill_(float("nan"))

        def replay():
            self.replayed += 1
            for old, new in zip(tensors_of(result), tensors_of(work()), strict=True):
                old.copy_(new)

        return replay, result


def with_graphs(trainer):
    """The trainer, with graphs by a Recorder, which is returned, too."""
    recorder = Recorder(trainer.module)
    layout = torch.channels_last if trainer.settings.channels_last else torch.contiguous_format
    trainer.passes = Passes(trainer.module, trainer.device, layout, enabled=True, recorder=lambda: recorder)
    return trainer, recorder


def train(trainer):
    progress = list(trainer.train(0))
    return progress + list(trainer.train(1, CANDIDATES))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


VARIANTS = [
    {},
    {"operators": "native", "clip_norm": 0.5, "loss_scale": 8.0},
    {"precision": "bf16", "channels_last": False},
    {"update": "joint"},
    {"paths": "uniform"},
    {"kind": PlainNet},  # with dropout
    {"distill": "full", "clip_norm": 0.5},
    {"distill": "full", "update": "joint"},
    {"distill": "network"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_replayed_training_has_the_same_bits(variant):
    options = dict(variant)
    kind = options.pop("kind", ResidualNet)
    if options.get("distill") == "network":
        options["distill"] = supernet(seed=3).extract((1, 1, 1))
    plain = SupernetTrainer(supernet(kind), images(), SETTINGS, **options)
    expected = train(plain)
    trainer, recorder = with_graphs(SupernetTrainer(supernet(kind), images(), SETTINGS, **options))
    progress = train(trainer)
    assert_same(trainer.state()[0], plain.state()[0])
    assert [one.loss for one in progress[4::5]] == [one.loss for one in expected[4::5]]
    if options.get("paths") != "uniform":
        # Of the 5 + 10 batches, the first of each step is run as it is.
        kinds = 1 if options.get("update") == "joint" else 3
        assert recorder.recorded == 1 + kinds
        assert recorder.replayed == 4 + 9 * kinds


def test_it_goes_on_from_a_state_with_the_same_bits():
    plain = SupernetTrainer(supernet(), images(), SETTINGS)
    train(plain)
    trainer, _ = with_graphs(SupernetTrainer(supernet(), images(), SETTINGS))
    list(trainer.train(0))
    for progress in trainer.train(1, CANDIDATES):
        if progress.done == 4:
            break
    state = copy.deepcopy(trainer.state())
    list(trainer.train(1, CANDIDATES, start=4))
    assert_same(trainer.state()[0], plain.state()[0])
    trainer.load_state(*state)  # with graphs of the same paths at hand
    list(trainer.train(1, CANDIDATES, start=4))
    assert_same(trainer.state()[0], plain.state()[0])


def test_an_odd_last_batch_is_run_as_it_is():
    loader = DataLoader(TensorDataset(*images(20)), batch_size=8)
    plain = SupernetTrainer(supernet(), loader, SETTINGS)
    train(plain)
    trainer, recorder = with_graphs(SupernetTrainer(supernet(), loader, SETTINGS))
    train(trainer)
    assert_same(trainer.state()[0], plain.state()[0])
    assert (recorder.recorded, recorder.replayed) == (1 + 3, 1 + 3 * 3)
    # Begun with the odd batch: the others are larger, and those to record.
    list(trainer.train(1, CANDIDATES, start=2))
    assert (recorder.recorded, recorder.replayed) == (1 + 3 + 3, 1 + 3 * 3 + 3)


def test_weights_that_move_are_found():
    """As another memory format, or another device and back, moves them in mid-step."""
    trained = []
    for replayed in (False, True):
        trainer = SupernetTrainer(supernet(), images(), SETTINGS)
        recorder = with_graphs(trainer)[1] if replayed else None
        for progress in trainer.train(1, CANDIDATES):
            if progress.done in (4, 7):
                for one in trainer.module.parameters():
                    one.data = one.data.clone()
        trained.append(trainer.state()[0])
    assert_same(*trained)
    assert recorder.recorded == 9


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_recipe_is_replayed_with_the_same_bits(optimizer):
    """Mixed batches, a head beside the network, and drop path, whose probability graphs are recorded with."""
    options = {
        "optimizer": optimizer,
        "mixup": 0.2,
        "cutmix": 1.0,
        "standalone_epochs": 2,
        "standalone_schedule": "cosine",
        "standalone_drop_path": 0.5,
        "standalone_drop_path_rule": "epochs",
        "standalone_auxiliary": 0.4,
    }
    settings = SETTINGS.replace(**options)
    plain = StandaloneTrainer.of(supernet(), (2, 1, 2), images(), settings)
    list(plain.train())
    trainer, recorder = with_graphs(StandaloneTrainer.of(supernet(), (2, 1, 2), images(), settings))
    list(trainer.train())
    assert_same(trainer.state()[0], plain.state()[0])
    assert recorder.recorded == 2  # one in each epoch


def test_a_network_alone_is_replayed_and_random_paths_are_not():
    network = supernet().extract((2, 1, 1))
    plain = StandaloneTrainer(
        copy.deepcopy(network), images(), SETTINGS, standalone_epochs=2, milestones=(1,)
    )
    list(plain.train())
    trainer = StandaloneTrainer(network, images(), SETTINGS, standalone_epochs=2, milestones=(1,))
    trainer, recorder = with_graphs(trainer)
    list(trainer.train())
    assert_same(trainer.state()[0], plain.state()[0])
    assert (recorder.recorded, recorder.replayed) == (1, 9)
    assert trainer.curriculum.recurs
    assert SupernetTrainer(supernet(), images(), SETTINGS).curriculum.recurs
    assert not OneShotTrainer(supernet(), images(), SETTINGS).curriculum.recurs


def test_what_cannot_be_recorded_is_trained_all_the_same(caplog):
    def record(work):
        raise RuntimeError("no")

    plain = SupernetTrainer(supernet(), images(), SETTINGS)
    train(plain)
    trainer = SupernetTrainer(supernet(), images(), SETTINGS)
    trainer.passes = Passes(
        trainer.module, trainer.device, torch.channels_last, enabled=True, recorder=lambda: record
    )
    train(trainer)
    assert_same(trainer.state()[0], plain.state()[0])
    assert len(caplog.messages) == 1


def cuda_trainer(graphs, variant, kind=ResidualNet, seed=0):
    if variant.get("distill") == "network":
        variant = {**variant, "distill": supernet(seed=3).extract((1, 1, 1))}
    data = tuple(one.cuda() for one in images(168))
    trainer = SupernetTrainer(supernet(kind, seed).cuda(), data, SETTINGS, **variant)
    if not graphs:
        trainer.passes = Passes(trainer.module, trainer.device, torch.channels_last, enabled=False)
    return trainer


CUDA_VARIANTS = [
    {},
    {"clip_norm": 0.5, "loss_scale": 8.0},
    {"precision": "bf16"},
    {"update": "joint"},
    {"kind": PlainNet},
    {"distill": "full"},
    {"distill": "network"},
]


@pytest.mark.cuda
@pytest.mark.parametrize("variant", CUDA_VARIANTS, ids=str)
def test_graphs_train_as_launches_do_on_cuda(variant, caplog):
    """42 batches of a step with a rate that falls at each, and from a state within it."""
    options = dict(variant)
    kind = options.pop("kind", ResidualNet)
    trainers = [cuda_trainer(graphs, options, kind) for graphs in (False, True)]
    for trainer in trainers:
        train(trainer)
    assert_same(*(trainer.state()[0] for trainer in trainers))
    part = cuda_trainer(True, options, kind)
    list(part.train(0))
    for progress in part.train(1, CANDIDATES):
        if progress.done == 20:
            break
    resumed = cuda_trainer(True, options, kind, seed=1)
    resumed.load_state(*part.state())
    list(resumed.train(1, CANDIDATES, start=20))
    assert_same(resumed.state()[0], trainers[0].state()[0])
    assert not caplog.messages


@pytest.mark.cuda
@pytest.mark.parametrize("graphs", [False, True])
def test_nothing_waits_for_the_device_within_an_epoch(graphs, monkeypatch):
    from lasfast.data.images import TensorImages

    monkeypatch.setattr("lasfast.train.trainer.READ_EVERY", float("inf"))
    values, labels = images(168)
    trainer = cuda_trainer(graphs, {"clip_norm": 0.5})
    trainer.data = TensorImages(values, labels, [0.0] * 3, [1.0] * 3, pad=1).to("cuda")
    batches = trainer.train(1, CANDIDATES)
    for _ in range(3):  # the first reads, the second records
        next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(15):
            next(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
