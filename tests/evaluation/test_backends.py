"""Which backend an evaluator computes with."""

import pytest
import torch

import lasfast
from lasfast import supernets
from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.native_backend import why_missing
from lasfast.execution.interpret import run_op
from lasfast.ir import layers

MISSING = why_missing(torch.device("cpu"))
needs_native = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
ARCHITECTURES = [(1, 1, 2), (1, 2, 1), (2, 1, 1), (2, 2, 2), (1, 1, 1)]


def test_auto_says_why_it_takes_torch(supernet, calibration, validation, monkeypatch, caplog) -> None:
    reason = "this build of lasfast has no CUDA kernels"
    monkeypatch.setattr("lasfast.evaluation.backends.why_missing", lambda device: reason)
    evaluator = lasfast.Evaluator(supernet, calibration, validation)
    assert isinstance(evaluator.backend, TorchBackend)
    assert caplog.messages == [f"lasfast evaluates with PyTorch's operators: {reason}"]
    with pytest.raises(ValueError, match=f"backend 'native' cannot run this supernet: {reason}"):
        lasfast.Evaluator(supernet, calibration, validation, "native")


class Columns(layers.Op):
    """Images to [N, C * H, W], which is neither an image nor features; `Rows` makes images of it again."""

    def output_shape(self, *shapes: layers.Shape) -> layers.Shape:
        channels, height, width = shapes[0]
        return (channels * height, width)


class Rows(layers.Op):
    def output_shape(self, *shapes: layers.Shape) -> layers.Shape:
        return (64, shapes[0][0] // 64, shapes[0][1])


@run_op.register
def _(op: Columns, modules, x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1, 2)


@run_op.register
def _(op: Rows, modules, x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(1, (64, -1))


class Gated(supernets.ResidualNet):
    """Has ops of its own in its third group, between which nothing native has a place."""

    def __init__(self, *, everywhere: bool = True) -> None:
        self.everywhere = everywhere
        super().__init__((2, 2, 2), 7)

    def group_end(self, group: int) -> supernets.Path:
        return () if group < 2 else (supernets.Layer("gate", (Columns(), Rows())),)

    def path(self, architecture) -> supernets.Path:
        path = super().path(architecture)
        deep = self.everywhere or tuple(architecture) == (1, 1, 1)
        return path if deep else tuple(layer for layer in path if layer.name != "gate")


@needs_native
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_auto_takes_native_where_it_can(supernet, calibration, validation, precision: str) -> None:
    assert isinstance(
        lasfast.Evaluator(supernet, calibration, validation, precision=precision).backend, NativeBackend
    )
    evaluator = lasfast.Evaluator(Gated(), calibration, validation, precision=precision)
    assert isinstance(evaluator.backend, TorchBackend)
    assert evaluator.describe()["backend"] == "torch"
    assert len(evaluator(ARCHITECTURES)) == len(ARCHITECTURES)


@needs_native
def test_auto_changes_to_torch_when_it_meets_what_native_cannot_run(calibration, validation, caplog) -> None:
    supernet = Gated(everywhere=False)
    evaluator = lasfast.Evaluator(supernet, calibration, validation)
    assert isinstance(evaluator.backend, NativeBackend)
    expected = lasfast.Evaluator(supernet, calibration, validation, "torch")(ARCHITECTURES)
    assert evaluator(ARCHITECTURES) == expected
    assert isinstance(evaluator.backend, TorchBackend)
    assert "layer 'gate': Columns" in caplog.text


@needs_native
def test_native_says_what_it_cannot_run(calibration, validation) -> None:
    with pytest.raises(ValueError, match=r"backend 'native' cannot run this.*layer 'gate': Columns: makes"):
        lasfast.Evaluator(Gated(), calibration, validation, "native")
    evaluator = lasfast.Evaluator(Gated(everywhere=False), calibration, validation, "native")
    assert len(evaluator([(2, 2, 2)])) == 1
    with pytest.raises(ValueError, match=r"backend 'native' cannot run this.*layer 'gate': Columns: makes"):
        evaluator(ARCHITECTURES)


def test_without_the_compiled_module_auto_is_torch(supernet, calibration, validation, monkeypatch) -> None:
    monkeypatch.setattr("lasfast.runtime.compiled._C", None)
    assert isinstance(lasfast.Evaluator(supernet, calibration, validation).backend, TorchBackend)
    with pytest.raises(ValueError, match="compiled module is missing"):
        lasfast.Evaluator(supernet, calibration, validation, "native")
