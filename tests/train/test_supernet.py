import copy
import functools
import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lasfast.data.images import TensorImages
from lasfast.runtime import kernels
from lasfast.runtime.precision import fp32_products, fp32_products_as
from lasfast.runtime.seeds import derive
from lasfast.supernets import PlainNet, ResidualNet
from lasfast.train import NonFiniteLossError, SupernetTrainer, TrainSettings
from lasfast.train.forward import first_operators

SETTINGS = TrainSettings(batch_size=16, warm_up_epochs=2, epochs_per_step=2, weight_decay=0.01)
CANDIDATES = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]


def images(count=48, classes=3, seed=0):
    """Easy images: the class sets the mean of a channel."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    values = torch.randint(0, 128, (count, 3, 8, 8), generator=generator)
    values[torch.arange(count), labels] += 127
    return TensorImages(values.to(torch.uint8), labels, [0.4] * 3, [0.3] * 3, pad=1)


def residual(max_layers=2, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResidualNet((max_layers,) * 3, num_classes=3)


def plain(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PlainNet((2, 2, 2), num_classes=3, image_size=8, dropout=0.5)


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def run(trainer, *steps):
    return [list(trainer.train(step, candidates)) for step, candidates in enumerate(steps)]


@pytest.mark.parametrize(("channels_last", "operators"), [(False, "auto"), (True, "torch"), (True, "native")])
def test_algorithm_1_line_by_line(channels_last, operators):
    close = {"rtol": 1e-5, "atol": 2e-6} if operators != "native" else {"rtol": 1e-4, "atol": 1e-4}
    # Sums are taken in another order than PyTorch's. Where that puts a ReLU on its other side, training parts
    # from there; that does not happen at every learning rate.
    for base in (0.01, 0.02, 0.003, 0.001):
        ours, theirs = train_line_by_line(channels_last, operators, base)
        if all(torch.allclose(ours[name], tensor, **close) for name, tensor in theirs.items()):
            return
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, **close, msg=name)


def test_training_leaves_alone_how_fp32_is_multiplied(monkeypatch):
    """Whichever of torch's settings the user took, also where torch refuses to read the older ones."""
    seen, trainer = [], SupernetTrainer(residual(), images(), SETTINGS)
    monkeypatch.setattr(trainer, "before_update", lambda: seen.append(fp32_products()))
    with fp32_products_as("exact"):
        if hasattr(torch.backends.cudnn, "conv"):
            torch.backends.cudnn.rnn.fp32_precision = "tf32"
        next(trainer.train(0, ()))
    assert seen == ["exact"]


def train_line_by_line(channels_last, operators, base):
    """Weights as a trainer leaves them, and as a plain loop does, written from the paper."""
    supernet, data = residual(), images()
    expected = copy.deepcopy(supernet)
    if channels_last:
        expected.to(memory_format=torch.channels_last)
    memory = {"channels_last": channels_last, "operators": operators}
    trainer = SupernetTrainer(supernet, data, SETTINGS, **memory, learning_rate=base)
    assert trainer.operators == ("torch" if operators == "auto" else operators)
    progress = run(trainer, (), CANDIDATES)

    # SGD that leaves parameters without a gradient alone.
    optimizer = torch.optim.SGD(
        expected.parameters(), lr=1, momentum=0.9, nesterov=True, weight_decay=0.01, foreach=False
    )
    rates = []
    for step, paths, epochs in ((0, [(2, 2, 2)], 2), (1, [(2, 2, 2), *CANDIDATES], 2)):
        for epoch in range(epochs):
            for batch, (x, y) in enumerate(data.batches(16, derive(0, step, epoch))):
                done = epoch * 3 + batch
                rate = base if step == 0 else base / 2 * (1 - done / 6)
                rates.append(rate)
                optimizer.param_groups[0]["lr"] = rate
                for path in paths:
                    expected.train()
                    optimizer.zero_grad(set_to_none=True)
                    x = x.to(memory_format=torch.channels_last) if channels_last else x
                    F.cross_entropy(expected(x, path), y).backward()
                    optimizer.step()
    assert [p.learning_rate for step in progress for p in step] == pytest.approx(rates)
    return supernet.state_dict(), expected.state_dict()


@pytest.mark.parametrize("operators", ["torch", "native"])
@pytest.mark.parametrize("update", ["sequential", "joint"])
def test_gradients_are_clipped_together_and_loss_scaling_changes_nothing(update, operators):
    changed = {}
    for name, more in (("plain", {}), ("scaled", {"loss_scale": 1024.0}), ("clipped", {"clip_norm": 1e-3})):
        supernet = residual()
        options = {"update": update, "operators": operators, "momentum": 0.0, "nesterov": False}
        trainer = SupernetTrainer(
            supernet, images(), SETTINGS, **options, **more, learning_rate=1.0, weight_decay=0.0
        )
        before = [one.detach().clone() for one in supernet.parameters()]
        next(iter(trainer.train(0)))  # one update, at rate 1: by the gradient itself
        after = supernet.parameters()
        changed[name] = torch.cat([(a - b).flatten() for a, b in zip(before, after, strict=True)]).detach()
    torch.testing.assert_close(changed["scaled"], changed["plain"], rtol=1e-4, atol=1e-6)
    assert changed["plain"].norm() > 0.1
    assert changed["clipped"].norm().item() == pytest.approx(1e-3, rel=0.02)
    cosine = torch.cosine_similarity(changed["clipped"], changed["plain"], dim=0)
    assert cosine.item() > 0.99


@pytest.mark.parametrize(("device", "compiled"), [("cpu", "available"), ("cuda:0", "_are_built_for")])
def test_fused_operators_are_tried_where_the_device_has_them(device, compiled, monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(kernels, compiled, lambda *of, there=there: there)
        for channels_last in (True, False):
            settings = TrainSettings(channels_last=channels_last)
            expected = "native" if there and channels_last else "torch"
            assert first_operators(settings, torch.device(device)) == expected


@pytest.mark.parametrize("faster", ["native", "torch"])
def test_the_faster_operators_are_taken_and_trying_leaves_no_trace(faster, monkeypatch):
    tried = []

    def fastest(key, device, ways, share):
        for name, run in ways.items():
            tried.append(name)
            run()
        return faster

    monkeypatch.setattr("lasfast.train.forward.fastest", fastest)
    trained = {}
    for operators in ("auto", faster):
        trainer = SupernetTrainer(residual(), images(), SETTINGS, operators=operators)
        run(trainer, (), CANDIDATES)
        assert trainer.operators == faster
        trained[operators] = weights(trainer.supernet)
    assert tried == ["native", "torch"]  # once
    assert_same(trained["auto"], trained[faster])


def test_progress():
    warm_up, step = run(SupernetTrainer(residual(), images(), SETTINGS), (), CANDIDATES)
    assert [(p.step, p.epoch, p.batch, p.done, p.last_of_epoch) for p in step] == [
        (1, epoch, batch, 3 * epoch + batch + 1, batch == 2) for epoch in range(2) for batch in range(3)
    ]
    for p in warm_up + step:
        assert (p.epochs, p.batches, p.total) == (2, 3, 6)
        assert p.loss > 0
        assert 0 <= p.accuracy <= 1
        assert p.images_per_second > 0
    assert step[-1].seconds >= step[0].seconds > 0


def test_progress_reports_the_candidates_over_the_epoch():
    supernet, data = residual(), images()
    trainer = SupernetTrainer(supernet, data, SETTINGS, learning_rate=1e-30, weight_decay=0.0)
    first = next(iter(trainer.train(1, CANDIDATES)))
    reference = residual().train()
    x, y = next(data.batches(16, derive(0, 1, 0)))
    logits = [reference(x, path) for path in CANDIDATES]
    losses = torch.stack([F.cross_entropy(one, y) for one in logits])
    assert first.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    right = torch.stack([(one.argmax(1) == y).float().mean() for one in logits])
    assert first.accuracy == pytest.approx(right.mean().item())


def test_it_learns():
    progress = run(SupernetTrainer(residual(), images(), SETTINGS, warm_up_epochs=4), (), CANDIDATES)
    assert progress[1][-1].accuracy > 0.9
    assert progress[1][-1].loss < 0.5


def test_inactive_weights_and_their_momentum_are_left_alone():
    supernet = residual(3)
    trainer = SupernetTrainer(supernet, images(), SETTINGS, deepest=(2, 2, 2))
    before = weights(supernet)
    run(trainer, (), CANDIDATES)
    unused = [name for name in before if name.startswith(("groups.0.2", "groups.1.2", "groups.2.2"))]
    assert len(unused) > 20
    tensors, _ = trainer.state()
    for name, tensor in weights(supernet).items():
        # Not even weight decay touches what no sub-network used.
        assert torch.equal(tensor, before[name]) == (name in unused or name.endswith("num_batches_tracked"))
        assert not (name in unused and f"momentum.{name}" in tensors)

    middle = weights(supernet)
    momentum = {name: tensor for name, tensor in tensors.items() if name.startswith("momentum.")}
    trainer.curriculum.deepest = (1, 1, 1)
    list(trainer.train(2, [(2, 1, 1)]))
    after, later = weights(supernet), trainer.state()[0]
    idle = [name for name in middle if name.startswith(("groups.1.1", "groups.2.1"))]
    assert len(idle) > 10
    for name in idle:
        assert torch.equal(after[name], middle[name])
        if f"momentum.{name}" in momentum:
            assert torch.equal(later[f"momentum.{name}"], momentum[f"momentum.{name}"])
    assert not torch.equal(after["groups.0.1.conv1.weight"], middle["groups.0.1.conv1.weight"])


VARIANTS = [
    {},
    {"operators": "native", "channels_last": True, "clip_norm": 0.5, "loss_scale": 8.0},
    {"operators": "native", "channels_last": True, "precision": "bf16", "update": "joint"},
    {"operators": "torch", "channels_last": True},
    {"paths": "uniform"},
    {"precision": "bf16"},
    {"channels_last": True},
    {"precision": "bf16", "channels_last": True, "paths": "uniform"},
]


@functools.cache
def states_of(number):
    """The states of a trainer of a variant, before its first batch and after each."""
    trainer = SupernetTrainer(plain(), images(), SETTINGS, **VARIANTS[number])
    states = [trainer.state()]
    for step, candidates in enumerate(((), CANDIDATES)):
        for _ in trainer.train(step, candidates):
            states.append(trainer.state())
    return states


@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=map(str, VARIANTS))
def test_same_seed_same_bits_and_another_seed_others(number):
    def final(seed):
        trainer = SupernetTrainer(plain(), images(), SETTINGS, seed=seed, **VARIANTS[number])
        run(trainer, (), CANDIDATES)
        return trainer.state()[0]

    first = states_of(number)[-1][0]
    assert_same(first, final(0))
    assert not torch.equal(
        first["weights.groups.0.0.conv.weight"], final(1)["weights.groups.0.0.conv.weight"]
    )


@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=map(str, VARIANTS))
def test_cut_anywhere_it_goes_on_with_the_same_bits(number):
    """Stopped after each batch, and continued from its state by another trainer, on another supernet."""
    states, variant, steps = states_of(number), VARIANTS[number], ((), CANDIDATES)
    for cut in (0, 2, 6, 7, 11):
        other = SupernetTrainer(plain(seed=9), images(), SETTINGS, **variant)
        other.load_state(*copy.deepcopy(states[cut]))
        at, batch = other.position
        for step in range(at, 2):
            for _ in other.train(step, steps[step], start=batch if step == at else 0):
                pass
        assert other.position == (1, 6)
        assert_same(other.state()[0], states[-1][0])


def test_no_global_random_state_is_used_or_changed():
    def final(seed):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trainer = SupernetTrainer(plain(), images(), SETTINGS)
        for _ in itertools.chain(trainer.train(0), trainer.train(1, CANDIDATES)):
            assert torch.equal(torch.get_rng_state(), before)
        return trainer.state()[0]

    assert_same(final(1), final(2))


def test_dropout_differs_from_batch_to_batch():
    supernet = plain()
    x, y = images(16).images.float() / 255, images(16).labels
    trainer = SupernetTrainer(supernet, (x, y), SETTINGS, learning_rate=1e-30, weight_decay=0.0)
    # One batch of all images in both epochs: what differs is the order (which cannot matter) and dropout.
    first, second = list(trainer.train(0))
    assert abs(first.loss - second.loss) > 1e-3


def test_uniform_trains_the_deepest_and_one_candidate_a_batch():
    supernet = residual()
    trained = []
    trainer = SupernetTrainer(supernet, images(), SETTINGS, paths="uniform", epochs_per_step=30)
    logits = trainer.forward.logits
    trainer.forward.logits = lambda images, paths: trained.extend(paths) or logits(images, paths)
    list(trainer.train(1, CANDIDATES))
    assert trained[::2] == [(2, 2, 2)] * 90
    counts = [trained[1::2].count(path) for path in CANDIDATES]
    assert sum(counts) == 90
    assert min(counts) >= 15


def test_bf16_is_close_to_fp32():
    losses = [
        next(iter(SupernetTrainer(residual(), images(), SETTINGS, precision=precision).train(0))).loss
        for precision in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_loss_that_is_not_finite_is_named():
    x, y = images().images.float() / 255, images().labels
    x[40, 0, 0, 0] = float("inf")
    trainer = SupernetTrainer(residual(), (x, y), SETTINGS)
    order = [
        batch
        for batch, (part, _) in enumerate(trainer.data.batches(16, derive(0, 1, 0)))
        if part.isinf().any()
    ]
    where = rf"step 1, epoch 1, batch {order[0] + 1}, sub-network \(2, 2, 2\), at learning rate 0\.0"
    with pytest.raises(NonFiniteLossError, match=where):
        list(trainer.train(1, CANDIDATES))
    with pytest.raises(NonFiniteLossError):
        trainer.state()


def test_diverging_training_is_named():
    with pytest.raises(NonFiniteLossError, match="Try a smaller learning_rate"):
        list(SupernetTrainer(residual(), images(), SETTINGS, learning_rate=1e30).train(0))


def test_no_state_from_within_a_batch():
    supernet = residual()
    trainer = SupernetTrainer(supernet, images(), SETTINGS)
    logits, calls = trainer.forward.logits, []

    def interrupted(images, paths):
        calls.append(paths)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return logits(images, paths)

    good = trainer.state()
    trainer.forward.logits = interrupted
    with pytest.raises(KeyboardInterrupt):
        list(trainer.train(1, CANDIDATES))
    with pytest.raises(RuntimeError, match="stopped within a batch"):
        trainer.state()
    trainer.load_state(*good)
    assert_same(trainer.state()[0], good[0])


def test_a_state_of_another_network_is_refused():
    small, large = residual(1), residual(2)
    small_state = SupernetTrainer(small, images(), SETTINGS).state()
    trainer = SupernetTrainer(large, images(), SETTINGS)
    before = weights(large)
    with pytest.raises(ValueError, match=r"of another network: they lack groups\.0\.1"):
        trainer.load_state(*small_state)
    tensors, values = trainer.state()
    tensors["weights.groups.0.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    with pytest.raises(
        ValueError, match=r"weights of groups\.0\.0\.conv1\.weight are \(1, 2, 3, 3\); this network"
    ):
        trainer.load_state(tensors, values)
    assert_same(weights(large), before)


def test_pairs_and_loaders_train():
    x, y = images().images.float() / 255, images().labels
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    for data in ((x, y), loader):
        progress = list(SupernetTrainer(residual(), data, SETTINGS).train(0))
        assert len(progress) == 6
        assert progress[-1].loss < progress[0].loss


def test_bad_arguments_are_named():
    supernet, data = residual(), images()
    trainer = SupernetTrainer(supernet, data, SETTINGS)
    with pytest.raises(ValueError, match="paths must be one of 'every', 'uniform', got 'all'"):
        SupernetTrainer(supernet, data, paths="all")
    with pytest.raises(TypeError, match=r"data must be training images .* got a list"):
        SupernetTrainer(supernet, [1, 2, 3])
    with pytest.raises(
        ValueError, match="data must have labels less than the supernet's 3 classes, got labels up to 4"
    ):
        SupernetTrainer(
            supernet, images(classes=3).__class__(data.images, data.labels + 2, [0.4] * 3, [0.3] * 3)
        )
    with pytest.raises(
        ValueError, match=r"step must be 0 \(the warm-up\) without candidates, .* got 0 with 3"
    ):
        trainer.train(0, CANDIDATES)
    with pytest.raises(ValueError, match="or a later one with one or more, got 1 with 0"):
        trainer.train(1)
    with pytest.raises(ValueError, match="start must be a batch of step 1, from 0 to 6, got 7"):
        trainer.train(1, CANDIDATES, start=7)
    with pytest.raises(ValueError, match="9"):
        trainer.train(1, [(9, 1, 1)])
    with pytest.raises(ValueError, match="9"):
        SupernetTrainer(supernet, data, deepest=(9, 9, 9))


def test_data_that_ends_early_is_named():
    class Short:
        def num_batches(self, batch_size):
            return 5

        def batches(self, batch_size, seed, start=0):
            return images().batches(batch_size, seed, start)

    with pytest.raises(ValueError, match=r"data ended after batch 3 in epoch 1 of step 0, .* is 5"):
        list(SupernetTrainer(residual(), Short(), SETTINGS).train(0))


def test_description_tells_settings_apart():
    import json

    def describe(**overrides):
        return SupernetTrainer(residual(), images(), SETTINGS, **overrides).describe()

    assert json.loads(json.dumps(describe())) == describe()
    assert describe() == describe()
    for other in ({"seed": 1}, {"paths": "uniform"}, {"deepest": (1, 1, 1)}):
        assert describe(**other) != describe()


@pytest.mark.cuda
def test_cuda_repeats_and_resumes_bit_for_bit():
    def trained(cut):
        trainer = SupernetTrainer(plain().cuda(), images(), SETTINGS, precision="bf16", channels_last=True)
        list(trainer.train(0))
        for progress in trainer.train(1, CANDIDATES):
            if progress.done == cut:
                break
        if cut:
            state = trainer.state()
            trainer = SupernetTrainer(
                plain(3).cuda(), images(), SETTINGS, precision="bf16", channels_last=True
            )
            trainer.load_state(*state)
            list(trainer.train(1, CANDIDATES, start=cut))
        return trainer.state()[0]

    assert_same(trained(0), trained(0))
    assert_same(trained(0), trained(4))
