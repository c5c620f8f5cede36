"""`accelerate` with images: each mode runs what is quickest, and nothing else changes."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lasfast.execution import accelerate, choice, fused_call
from lasfast.runtime import autotune


class Network(nn.Module):
    """Two convolutions, a dropout, and a forward of its own that takes some time."""

    seconds = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.dropout, self.fc = nn.Dropout(0.5), nn.Linear(8, 5)

    def extra_repr(self) -> str:
        return "of two layers"

    def forward(self, x: Tensor) -> Tensor:
        spend(self.seconds)  # once, while it is read
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(self.dropout(x.mean((2, 3))))


def spend(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.fixture
def model(one_thread: None) -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def images(one_thread: None) -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Measure, and remember nothing of before."""
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path))
    monkeypatch.setenv("LASFAST_CHOICE", "measure")
    return tmp_path


def deciding(**chosen: str) -> Callable[..., str]:
    """Return what takes the place of a measurement: the way of each mode."""

    def fastest(key: str, device: torch.device, ways: dict[str, Callable[[], None]], runs: int) -> str:
        assert list(ways) == ["torch", "torch in channels_last", "native"]
        for run in ways.values():
            run()
        return chosen[key.partition(" among ")[0].rpartition(" ")[2]]

    return fastest


def forbid_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*arguments: object) -> None:
        raise AssertionError("a step is timed")

    for name in ("_train", "_evaluate"):
        monkeypatch.setattr(choice, name, step)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_what_is_quicker_fused_runs_fused(
    model: Network, images: Tensor, measured: Path, monkeypatch
) -> None:
    monkeypatch.setattr(Network, "seconds", 0.02)
    network = accelerate(model, images)
    assert network.train().fused_graph is not None
    assert network.eval().fused_graph is not None
    assert "training: fused, evaluation: fused, of two layers" in repr(network)


def test_what_is_slower_fused_runs_its_own_forward(
    model: Network, images: Tensor, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = fused_call.fused

    def slowly(*args: object) -> Tensor:
        spend(0.02)
        return fused(*args)

    monkeypatch.setattr(fused_call, "fused", slowly)
    network = accelerate(model, images)
    assert network.train().fused_graph is None
    assert network.eval().fused_graph is None


def test_the_choice_is_remembered(model: Network, images: Tensor, measured: Path, monkeypatch) -> None:
    accelerate(model, images)
    before = [file.read_text() for file in measured.iterdir()]
    forbid_steps(monkeypatch)
    accelerate(copy.deepcopy(model), torch.zeros_like(images))
    assert [file.read_text() for file in measured.iterdir()] == before
    with pytest.raises(AssertionError, match="is timed"):  # another shape is another choice
        accelerate(model, images[:2])


@pytest.mark.parametrize("training", ["torch", "torch in channels_last", "native"])
@pytest.mark.parametrize("evaluation", ["torch", "torch in channels_last", "native"])
def test_each_mode_runs_what_was_chosen(
    model: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch, training: str, evaluation: str
) -> None:
    """It computes what the model does, in copies and pickles, too; nothing of the model has changed."""
    theirs, before, numbers = copy.deepcopy(model), state(model), torch.get_rng_state()
    monkeypatch.setattr(autotune, "fastest", deciding(training=training, evaluation=evaluation))
    network = accelerate(model, images)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(one.grad is None for one in model.parameters())
    assert model.training
    words = dict(zip(("torch", "torch in channels_last", "native"), WORDS, strict=True))
    said = f"training: {words[training]}, evaluation: {words[evaluation]}, of two layers"
    for other in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert (other.train().fused_graph is not None) == (training == "native")
        assert (other.eval().fused_graph is not None) == (evaluation == "native")
        assert said in repr(other)
        assert other.conv1.weight.is_contiguous()
        assert_alike(other, copy.deepcopy(theirs), images)


WORDS = ("own forward", "own forward in channels_last", "fused")


def assert_alike(ours: nn.Module, theirs: nn.Module, images: Tensor) -> None:
    """Logits, gradients and statistics of a step, and logits in evaluation."""
    results = []
    for network in (ours, theirs):
        network.zero_grad()
        torch.manual_seed(1)
        logits = network.train()(images)
        logits.square().sum().backward()
        gradients = [one.grad for _, one in sorted(network.named_parameters())]
        buffers = [one.clone() for _, one in sorted(network.named_buffers())]
        results.append([logits, *gradients, *buffers, network.eval()(images)])
    for mine, true in zip(*results, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-3, atol=1e-4)


class AsksForTheLayout(Network):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.dropout(x.view(x.shape[0], 8, -1).mean(2)))


class ChangesItsImages(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2))


@pytest.mark.parametrize("kind", [AsksForTheLayout, ChangesItsImages])
def test_another_layout_is_offered_only_where_nobody_could_tell(
    kind: type[Network], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[list[str]] = []

    def fastest(key: str, device: torch.device, ways: dict[str, Callable[[], None]], runs: int) -> str:
        offered.append(list(ways))
        return "native"

    monkeypatch.setattr(autotune, "fastest", fastest)
    accelerate(kind(), images)
    assert offered == [["torch", "native"]] * 2


def test_frozen_norms_are_timed_as_such(
    model: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.bn1.eval()
    seen: list[bool] = []

    def fastest(key: str, device: torch.device, ways: dict[str, Callable[[], None]], runs: int) -> str:
        for run in ways.values():
            run()
            seen.append(run.args[0].bn1.training)
        return "native"

    monkeypatch.setattr(autotune, "fastest", fastest)
    accelerate(model, images)
    assert seen == [False] * 6
    assert model.bn2.training
    assert not model.bn1.training


@pytest.mark.parametrize("wanted", ["native", "torch"])
def test_the_environment_decides(
    model: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", wanted)
    forbid_steps(monkeypatch)
    network = accelerate(model, images)
    for training in (True, False):
        assert (network.train(training).fused_graph is None) == (wanted == "torch")


def test_images_are_a_tensor(model: Network) -> None:
    with pytest.raises(TypeError, match=r"images must be a torch\.Tensor, got a list"):
        accelerate(model, [1])
