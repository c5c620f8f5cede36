import copy

import pytest
import torch

from lasfast.data.images import TensorImages
from lasfast.supernets import ResidualNet
from lasfast.train import NonFiniteLossError, StandaloneTrainer, preset, train_standalone

SETTINGS = preset("cifar100", batch_size=16, standalone_epochs=5)


def images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    values = torch.randint(0, 128, (48, 3, 8, 8), generator=generator)
    values[torch.arange(48), labels] += 127
    return TensorImages(values.to(torch.uint8), labels, [0.4] * 3, [0.3] * 3, pad=1)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResidualNet((2, 2, 2), num_classes=3, dropout=0.3).extract((1, 2, 1), fresh=True)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_learning_rate_falls_at_the_milestones():
    progress = list(train_standalone(network(), images(), SETTINGS))
    # 200 epochs with 60, 120, 160 become 5 with 1.5, 3, 4; three batches an epoch.
    expected = [0.1] * 5 + [0.02] * 4 + [0.004] * 3 + [0.0008] * 3
    assert [p.learning_rate for p in progress] == pytest.approx(expected)
    assert [(p.epoch, p.batch) for p in progress] == [(e, b) for e in range(5) for b in range(3)]


def test_it_learns():
    trained = network()
    progress = list(train_standalone(trained, images(), SETTINGS))
    assert progress[-1].accuracy > 0.9
    assert progress[-1].loss < progress[0].loss


def test_it_repeats_and_resumes_bit_for_bit():
    trainer = StandaloneTrainer(network(), images(), SETTINGS, seed=4)
    states = [trainer.state()]
    states += [copy.deepcopy(trainer.state()) for _ in trainer.train()]
    assert trainer.finished
    for cut in (0, 1, 3, 8, 14, 15):
        other = StandaloneTrainer(network(1), images(), SETTINGS, seed=4)
        other.load_state(*states[cut])
        assert other.finished == (cut == 15)
        assert len(list(other.train())) == 15 - cut
        assert_same(other.state()[0], states[-1][0])
    another = StandaloneTrainer(network(), images(), SETTINGS, seed=5)
    list(another.train())
    assert any(not torch.equal(another.state()[0][name], tensor) for name, tensor in states[-1][0].items())


def test_errors_name_what_is_wrong():
    with pytest.raises(NonFiniteLossError, match=r"in step 0, epoch 1, batch .*, at learning rate"):
        list(train_standalone(network(), images(), SETTINGS, learning_rate=1e30))
    with pytest.raises(ValueError, match="has no parameters to train"):
        StandaloneTrainer(torch.nn.ReLU(), images(), SETTINGS)
    with pytest.raises(ValueError, match=r"standalone_ema must be 0 for train_standalone, got 0\.9"):
        train_standalone(network(), images(), SETTINGS, standalone_ema=0.9)
    with pytest.raises(ValueError, match="start must be a batch of step 0, from 0 to 15, got 16"):
        StandaloneTrainer(network(), images(), SETTINGS).train(start=16)


def test_the_average_of_the_weights_is_trained_along_and_resumes():
    trainer = StandaloneTrainer(network(), images(), SETTINGS, standalone_ema=0.8)
    plain = StandaloneTrainer(network(), images(), SETTINGS)
    assert plain.trained is plain.module
    expected, states = {}, []
    for _, _ in zip(trainer.train(), plain.train(), strict=True):
        assert_same(trainer.module.state_dict(), plain.module.state_dict())
        for name, tensor in plain.module.state_dict().items():
            before = expected.get(name, tensor)
            expected[name] = 0.8 * before + 0.2 * tensor
        states.append(trainer.state())
    for name, tensor in trainer.trained.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    other = StandaloneTrainer(network(1), images(), SETTINGS, standalone_ema=0.8)
    other.load_state(*states[6])
    list(other.train())
    assert_same(other.state()[0], trainer.state()[0])
    assert any(name.startswith("average.module.") for name in other.state()[0])

    with pytest.raises(ValueError, match=r"standalone_ema must be above 0 exactly where .* got 0.8 and 0 av"):
        other.load_state(*plain.state())
    with pytest.raises(ValueError, match=r"standalone_ema must be above 0 exactly where .* got 0.0 and \d+"):
        plain.load_state(*trainer.state())
