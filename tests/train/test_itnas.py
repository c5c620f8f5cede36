"""ITNAS' training: distributions by transition, alternating steps, schedules, the same bits when resumed."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch

from lasfast.data.images import TensorImages
from lasfast.data.loaders import FolderImages
from lasfast.data.training import PairImages, halves
from lasfast.evaluation.evaluator import Evaluator
from lasfast.runtime import compiled
from lasfast.runtime.seeds import derive
from lasfast.searchers import ITNAS
from lasfast.spaces import CellSpace
from lasfast.study.study import Callback, Study
from lasfast.supernets import CellNet, ResidualNet
from lasfast.supernets.mixed import run_mixed
from lasfast.train import ITNASTrainer, TrainSettings, checkpoint
from lasfast.train.itnas import CellWeights

SPACE = CellSpace(2, ["max_pool_3x3", "skip_connect", "sep_conv_3x3"])
SETTINGS = TrainSettings(
    batch_size=8, supernet_epochs=3, learning_rate=0.05, weight_decay=0.01, operators="torch"
)
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(40) % 3
IMAGES = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=GENERATOR)
IMAGES[:, 0] = 80 * LABELS[:, None, None].to(torch.uint8)
TRAIN = TensorImages(IMAGES, LABELS, (0.5,) * 3, (0.3,) * 3, pad=1)


def make(seed: int = 0, dropout: float = 0.0, **arguments) -> ITNASTrainer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = CellNet(3, 3, cells=3, channels=4, space=SPACE, dropout=dropout)
    arguments = {
        "data": TRAIN,
        "settings": SETTINGS,
        "architecture_learning_rate": 0.05,
        "seed": seed,
        **arguments,
    }
    return ITNASTrainer(supernet, **arguments)


def run(trainer: ITNASTrainer, batches: int | None = None) -> list:
    return list(itertools.islice(trainer.train(0, start=trainer.position[1]), batches))


def test_distributions_follow_the_transitions() -> None:
    weights = CellWeights(CellSpace(3, SPACE.operations), transition=True, none=False)
    rows = dict(zip(weights.edges, weights.expected(), strict=True))
    assert weights.free_edges == [edge for edge in weights.edges if edge[0] < 2]
    assert weights.inner_edges == [(2, 3), (2, 4), (3, 4)]
    for row in rows.values():
        assert row.shape == (3,)
        assert row.sum().item() == pytest.approx(1)
    learned = weights.learned()
    for edge in weights.inner_edges:  # by the plain formula, one number after another
        shares = weights.attention[f"{edge[0]}-{edge[1]}"].softmax(0)
        matrices = weights.transitions[f"{edge[0]}-{edge[1]}"].softmax(-1)
        for n in range(3):
            expected = sum(
                shares[h] * rows[h, edge[0]][m] * matrices[h, m, n] for h in range(edge[0]) for m in range(3)
            )
            assert rows[edge][n].item() == pytest.approx(expected.item(), rel=1e-5)
        before = {source: rows[source, edge[0]].detach().double().numpy() for source in range(edge[0])}
        np.testing.assert_allclose(learned.distribution(edge, before), rows[edge].detach(), rtol=1e-5)


def test_of_the_paper_s_cell_eight_edges_are_free() -> None:
    space = CellSpace()
    weights = CellWeights(space, transition=True, none=False)
    assert len(weights.free_edges) == 8
    shapes = {name: tuple(one.shape) for name, one in weights.transitions.items()}
    assert shapes == {f"{i}-{j}": (i, 7, 7) for j in range(3, 6) for i in range(2, j)}
    darts = CellWeights(space, transition=False, none=True)
    assert [tuple(one.shape) for one in darts.parameters()] == [(14, 8)]


def test_temperature_makes_samples_even_or_one_hot() -> None:
    torch.manual_seed(0)
    weights = CellWeights(SPACE, transition=True, none=False)
    outer = [weights.edges.index(edge) for edge in weights.free_edges]
    hot, cold = weights.sample(1e4)[outer], weights.sample(1e-3)[outer]
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / 3), rtol=0, atol=1e-2)
    assert cold.max(1).values.min() > 0.99
    # What is drawn is the distribution: Gumbel-max.
    with torch.no_grad():
        weights.free[0] = torch.tensor([0.6, 0.3, 0.1]).log()
        drawn = torch.stack([weights.sample(0.01)[0].round() for _ in range(600)])
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.6, 0.3, 0.1]), rtol=0, atol=0.06)


def test_schedules_go_from_the_first_to_the_last() -> None:
    trainer = make(temperature=(5.0, 1.0), final_learning_rate=0.01)
    total = 3 * trainer.batches
    assert [trainer.temperature_at(0), trainer.temperature_at(total - 1)] == [5.0, 1.0]
    steps = [trainer.temperature_at(batch) - trainer.temperature_at(batch + 1) for batch in range(total - 1)]
    assert steps == pytest.approx([4 / (total - 1)] * (total - 1))
    seen = run(trainer)
    assert seen[-1].loss < seen[0].loss
    rates = [progress.learning_rate for progress in seen]
    assert len(rates) == total
    assert rates[0] == 0.05
    assert rates == sorted(rates, reverse=True)
    assert rates[total // 2] == pytest.approx(0.03, abs=2e-3)
    assert 0.01 < rates[-1] < 0.015


def test_halves_share_no_image_and_have_each_class() -> None:
    one, other = halves(TRAIN, 3)
    assert len(one) == len(other) == 20
    taken = {image.numpy().tobytes() for image in torch.cat([one.images, other.images])}
    assert len(taken) == 40
    for half in (one, other):
        assert half.labels.bincount().tolist() in ([7, 7, 6], [7, 6, 7], [6, 7, 7], [7, 6, 7])
        assert half.describe()["pad"] == 1
    assert torch.equal(halves(TRAIN, 3)[0].images, one.images)
    assert not torch.equal(halves(TRAIN, 4)[0].images, one.images)
    pair = halves(PairImages(torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)), 0)
    assert [len(half) for half in pair] == [3, 2]
    files = FolderImages(
        [f"{number}.png" for number in range(4)], torch.tensor([0, 0, 1, 1]), (8, 8), (0.5,), (1,)
    )
    parts = halves(files, 0)
    assert {path for part in parts for path in part._paths} == set(files._paths)
    assert [part.labels.tolist() for part in parts] == [[0, 1], [0, 1]]


def test_both_steps_change_what_is_theirs_alone() -> None:
    trainer = make()
    weights = copy.deepcopy(dict(trainer.supernet.named_parameters()))
    architecture = copy.deepcopy(dict(trainer.cells.named_parameters()))
    run(trainer, 1)
    for name, parameter in trainer.cells.named_parameters():
        changed = (parameter != architecture[name]).float().mean()
        assert changed > 0.9, name  # matrices and shares as well as outer edges
        # A first step of Adam is as large as the learning rate.
        assert (parameter - architecture[name]).abs().max().item() == pytest.approx(0.05, rel=1e-2)
    for name, parameter in trainer.supernet.named_parameters():
        frozen = name.startswith("stack.") and ".bn." in name
        assert torch.equal(parameter, weights[name]) == frozen, name
        assert parameter.grad is None, name


def test_the_weights_step_is_plain_sgd_on_a_drawn_mixture() -> None:
    """One step, written down with PyTorch's own optimizer."""
    trainer = make(gumbel=False, momentum=0.0, nesterov=False, final_learning_rate=0.0)
    reference = copy.deepcopy(trainer.supernet)
    run(trainer, 1)
    images, labels = next(trainer.data.batches(8, derive(0, 0, 0)))
    # The architecture's step came before; of the supernet, it moves running statistics alone.
    mixture = {kind: weights.expected().detach() for kind, weights in trainer.cells.items()}
    loss = torch.nn.functional.cross_entropy(
        run_mixed(reference.train(), reference.layer_runner(), images, mixture), labels
    )
    parameters = [one for one in reference.parameters() if one.requires_grad]
    loss.backward()
    torch.optim.SGD(parameters, 0.05, weight_decay=0.01).step()
    ours = dict(trainer.supernet.named_parameters())
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(ours[name], parameter, rtol=1e-4, atol=1e-6)


FEW = TRAIN.subset(torch.arange(20, 36))  # two batches, where the weights' part has five


@pytest.mark.parametrize(
    "options",
    [{"architecture_data": FEW, "dropout": 0.3}, {"transition": False, "gumbel": False, "none": True}],
)
def test_it_resumes_to_the_same_bits(options, tmp_path) -> None:
    whole = make(**options)
    run(whole)
    for cut in (1, whole.batches, 2 * whole.batches + 1):
        first = make(**options)
        run(first, cut)
        tensors, values = first.state()
        checkpoint.save(tmp_path / "c", tensors, values)
        with torch.no_grad():
            torch.rand(3)  # somebody else draws
        second = make(seed=0, **options)
        second.load_state(*checkpoint.load(tmp_path / "c"))
        run(second)
        assert checkpoint.digest(second.state()[0]) == checkpoint.digest(whole.state()[0])
    assert checkpoint.digest(make(seed=1, **options).state()[0]) != checkpoint.digest(
        make(**options).state()[0]
    )


@pytest.mark.parametrize("changes", [{"operators": "native"}, {"operators": "native", "precision": "bf16"}])
def test_other_operators_train_alike(changes) -> None:
    """In the first batches, before rounding has grown; the architecture is drawn from the same numbers."""
    if not compiled.available():
        pytest.skip("the compiled module is missing")
    truth, other = make(gumbel=False), make(gumbel=False, **changes)
    *_, one = run(truth, truth.batches)
    *_, two = run(other, truth.batches)
    assert other.operators == "native"
    assert two.loss == pytest.approx(one.loss, rel=0.02 if "precision" in changes else 1e-4)
    if "precision" not in changes:  # rounding decides the sign of small gradients, all that Adam begins with
        for ours, theirs in zip(other.cells.parameters(), truth.cells.parameters(), strict=True):
            assert (ours - theirs).norm() <= 0.05 * theirs.norm()


class Stop(Callback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_progress(self, progress) -> None:
        if progress.done == self.after:
            raise KeyboardInterrupt


def study(directory, callbacks=()) -> Study:
    trainer = make()
    images, labels = IMAGES.float() / 255, LABELS
    evaluator = Evaluator(trainer.supernet, images[:20], (images[20:], labels[20:]))
    searcher = ITNAS(SPACE, learned=trainer.learned)
    return Study(searcher, evaluator, trainer, directory, callbacks, checkpoint_seconds=0)


def test_a_study_resumes_to_the_same_bytes(tmp_path) -> None:
    result = study(tmp_path / "whole").run()
    for after in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            study(tmp_path / f"cut{after}", [Stop(after)]).run()
        study(tmp_path / f"cut{after}").run(resume=True)
        for file in ("journal.jsonl", "checkpoint.safetensors", "result.json"):
            whole, cut = ((tmp_path / name / file).read_bytes() for name in ("whole", f"cut{after}"))
            assert whole == cut, file
    assert len(result.candidates) == 1
    saved = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert SPACE.parse(saved["best"]["text"]) == result.best.architecture
    assert saved["study"]["trainer"]["itnas"]["temperature"] == [10.0, 0.1]
    again = study(tmp_path / "whole").run(resume=True)
    assert again.best.architecture == result.best.architecture


def test_a_state_of_another_search_is_refused() -> None:
    trainer = make()
    run(trainer, 1)
    for other in (make(transition=False), make(none=True)):
        before = checkpoint.digest(other.state()[0])
        with pytest.raises(
            ValueError, match="architecture parameters are of another space, or of other options"
        ):
            other.load_state(*trainer.state())
        assert checkpoint.digest(other.state()[0]) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": (1.0, 0.0)}, "temperature must be above 0, got 0.0"),
        ({"temperature": 1.0}, "temperature must be a pair, the first and the last, got 1.0"),
        ({"temperature": (0.1, 1.0)}, "temperature must be at least 1.0, got 0.1"),
        ({"architecture_learning_rate": 0.0}, "architecture_learning_rate must be above 0, got 0.0"),
        ({"architecture_weight_decay": -1.0}, "architecture_weight_decay must be at least 0, got -1.0"),
        (
            {"final_learning_rate": 0.1},
            "final_learning_rate must be at most the learning_rate, 0.05, got 0.1",
        ),
        ({"transition": 1}, "transition must be True or False, got 1"),
        ({"data": torch.utils.data.DataLoader([])}, "data must have a batch"),
        (
            {"data": torch.utils.data.DataLoader([(IMAGES[0] / 255, 0)])},
            "to be divided into halves, got a LoaderImages",
        ),
        (
            {"data": (torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64))},
            "data must have two images or more, .* got 1",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make(**arguments)


def test_only_cells_are_searched() -> None:
    with pytest.raises(TypeError, match="supernet must be a CellNet, got ResidualNet"):
        ITNASTrainer(ResidualNet(1), TRAIN)  # type: ignore[arg-type]
