"""The evaluator that trains each architecture from scratch."""

import pytest
import torch

from lasfast import StandaloneEvaluator, Study
from lasfast.evaluation.scoring import evaluate_network
from lasfast.runtime.seeds import derive
from lasfast.searchers import NIR
from lasfast.supernets import ResidualNet
from lasfast.train import TrainSettings, train_standalone

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = TrainSettings(batch_size=16, standalone_epochs=2, milestones=(1,))


def images(count=64):
    """Easy images: the class sets the mean of a channel."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    values = torch.randn(count, 3, 8, 8, generator=generator)
    values[torch.arange(count), labels] += 1
    return values, labels


def make(**options):
    torch.manual_seed(0)
    x, y = images()
    supernet = ResidualNet((2, 2, 2), num_classes=3)
    return StandaloneEvaluator(supernet, (x[:48], y[:48]), (x[48:], y[48:]), SETTINGS, **options)


def test_it_trains_each_from_scratch():
    seen = []
    evaluator = make(on_progress=lambda architecture, progress: seen.append(architecture))
    before = {name: tensor.clone() for name, tensor in evaluator.supernet.state_dict().items()}
    one, other, again = evaluator([(1, 1, 2), (2, 1, 1), (1, 1, 2)])
    assert one == again
    assert (one.architecture, other.architecture) == ((1, 1, 2), (2, 1, 1))
    assert len(seen) == 2 * 2 * 3  # architectures, epochs, batches
    for name, tensor in evaluator.supernet.state_dict().items():
        assert torch.equal(tensor, before[name])

    seed = derive(0, 1, 1, 2, bits=31)
    torch.manual_seed(seed)
    network = evaluator.supernet.extract((1, 1, 2), fresh=True)
    list(train_standalone(network, evaluator.train, SETTINGS, seed))
    expected = evaluate_network(network, evaluator.validation, (1, 1, 2))
    assert (one.top1, one.loss) == (expected.top1, expected.loss)


def test_a_measurement_does_not_depend_on_what_else_is_asked():
    alone = make()([(1, 2, 1)])
    assert make()([(2, 2, 2), (1, 2, 1)])[1] == alone[0]
    assert make(seed=1)([(1, 2, 1)]) != alone


def test_all_may_learn_from_a_teacher():
    teacher = ResidualNet((1, 1, 1), num_classes=3).extract((1, 1, 1))
    plain, taught = make(), make(distill=teacher)
    assert taught([(1, 2, 1)]) != plain([(1, 2, 1)])
    described = taught.describe()
    assert described.pop("distill")["weight"] == 1
    assert described == plain.describe()


def test_a_study_searches_with_it(tmp_path):
    def study():
        evaluator = make()
        return Study(NIR(evaluator.space, depth=5), evaluator, directory=tmp_path)

    result = study().run()
    assert sum(result.winners[5].architecture) == 5
    assert result.best.costs["flops"] > 0
    written = (tmp_path / "journal.jsonl").read_bytes()
    assert study().run(resume=True).best == result.best
    assert (tmp_path / "journal.jsonl").read_bytes() == written


def test_bad_arguments_are_named():
    x, y = images()
    supernet = ResidualNet((2, 2, 2), num_classes=3)
    with pytest.raises(TypeError, match="supernet must be a lasfast Supernet, got Linear"):
        StandaloneEvaluator(torch.nn.Linear(1, 1), (x, y), (x, y))
    with pytest.raises(ValueError, match="validation labels must lie in 0 to 2, got 0 to 3"):
        StandaloneEvaluator(supernet, (x, y), (x, (torch.arange(64) % 4)))
    with pytest.raises(ValueError, match=r"settings must be one of .*, got 'tiny'"):
        StandaloneEvaluator(supernet, (x, y), (x, y), "tiny")
