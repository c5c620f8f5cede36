"""Which families of networks can lasfast read, train and calibrate? Each is compared with PyTorch in float64.

    python -m benchmarks.record_families record benchmarks/results/families.json
    python -m benchmarks.record_families page benchmarks/results/families.json

The networks of `benchmarks/families.txt` are made as their libraries make them, with random weights and 10
classes. Each runs in a process of its own. Tensors are right where they are off from float64's by at most
twice as much as PyTorch's in float32 are, plus 1e-4. (Errors count by their root mean square over tensors.
That of one tensor is a share of its own mean square and of the largest of all: gradients may cancel out.)
"""

from __future__ import annotations

import json
import multiprocessing
import re
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from queue import Empty
from typing import Any

import torch
import typer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

import lasfast
from benchmarks import _harness
from lasfast.execution.from_fx import UntraceableError, trace
from lasfast.execution.fused_call import run
from lasfast.ir.layers import Code, Opaque

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
FAMILIES = Path(__file__).with_name("families.txt")
IMAGES, BATCHES = 4, 2


def families(path: Path = FAMILIES) -> dict[str, int]:
    """Return the size of the images for each network, by library:name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: int(size) for name, size in (line.split() for line in lines if not line.startswith("#"))}


def make(name: str) -> nn.Module:
    """Return a network with random weights, the same at each call."""
    library, _, kind = name.partition(":")
    torch.manual_seed(0)
    if library == "torchvision":
        options = {"init_weights": False} if kind in ("googlenet", "inception_v3") else {}
        return import_module(library).models.get_model(kind, num_classes=10, **options)
    return import_module(library).create_model(kind, num_classes=10)


@app.command()
def record(output: Path, only: str = "", seconds: int = 600) -> None:
    """Try all networks, or those whose names match `only`, and write what came of each.

    What the file says of others stays.
    """
    for library in {name.partition(":")[0] for name in families()}:
        import_module(library)  # once for all
    known = json.loads(output.read_text(encoding="utf-8"))["families"] if output.exists() else {}
    for name in families():
        if re.search(only, name):
            known[name] = _in_a_process(name, seconds)
            print(name, json.dumps(known[name]), flush=True)
            found = {name: known[name] for name in families() if name in known}
            _harness.write({"record": "families", "machine": _harness.machine(), "families": found}, output)


def _in_a_process(name: str, seconds: int) -> dict[str, Any]:
    """Try one network in a process that ends with it, and its memory."""
    context = multiprocessing.get_context("fork")  # so that libraries are imported once
    queue = context.Queue()
    process = context.Process(target=_one, args=(name, queue))
    process.start()
    try:
        return queue.get(timeout=seconds)
    except Empty:
        return {"failed": f"it did not end within {seconds} s; its exit status is {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _one(name: str, queue: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        queue.put(try_network(lambda: make(name), families()[name]))
    except Exception as error:  # whatever is wrong with one network, the others follow
        queue.put({"failed": f"{type(error).__name__}: {error}"})


def try_network(new: Callable[[], nn.Module], size: int) -> dict[str, Any]:
    """Return what came of a network that `new` makes anew, on square images."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(IMAGES, 3, size, size, generator=generator) for _ in range(BATCHES)]
    norms = sum(isinstance(module, _BatchNorm) for module in new().modules())
    found = {"norms": norms, "read": reading(new(), size), "accelerate": acceleration(new, images)}
    return found | ({"calibrate": calibration(new, images)} if norms else {})


def reading(network: nn.Module, size: int) -> dict[str, Any]:
    """Return which modules are opaque in a network's record, and which of these hold convolutions."""
    try:
        layer = trace(network.eval(), (3, size, size))
    except UntraceableError as error:
        return {"error": str(error)}
    opaque = [op.module for op in layer.ops if isinstance(op, Opaque)]
    kinds = sorted({type(network.get_submodule(part)).__name__ for part in opaque})
    code = [op.source for op in layer.ops if isinstance(op, Code)]
    holding = [part for part in opaque if _holds_convolution(network.get_submodule(part))]
    holding += [source for source in code if "conv" in source]
    found = {"ops": len(layer.ops), "opaque": kinds, "code": len(code)}
    return {**found, "opaque_with_convolution": holding}


def _holds_convolution(module: nn.Module) -> bool:
    return any(isinstance(part, _ConvNd) for part in module.modules())


# ---- accelerate


def acceleration(new: Callable[[], nn.Module], images: list[Tensor]) -> dict[str, Any]:
    """Return how many norms are fused, and how far training steps are off, of what is allowed."""
    try:
        ours = lasfast.accelerate(new())
    except ValueError as error:
        return {"error": str(error)}
    fused = sum(node.target is run for node in ours.train().fused_graph.nodes)
    steps = [_steps(network, images) for network in (ours, new(), new().double())]
    off = {what: _off(*(step[what] for step in steps)) for what in steps[0]}
    return {"fused": fused, "off": off, "right": all(value <= 1 for value in off.values())}


def _steps(network: nn.Module, images: list[Tensor]) -> dict[str, list[Tensor]]:
    """Return outputs, gradients and statistics of one batch in training, and outputs in evaluation."""
    dtype = next(network.parameters()).dtype
    x = images[0].to(dtype, copy=True).requires_grad_()
    torch.manual_seed(0)
    outputs = _tensors(network.train()(x * 1))
    loss = sum((y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)).sum() for y in outputs)
    loss.backward()
    # A copy that was accelerated has the constants of its code as buffers.
    buffers = [(name, value) for name, value in network.named_buffers() if "constant" not in name]
    buffers = [value for _, value in buffers if value.is_floating_point()]
    statistics = [value.detach().clone() for value in buffers]
    with torch.no_grad():
        evaluated = _tensors(network.eval()(images[1].to(dtype)))
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return {
        "outputs": outputs,
        "gradients": [x.grad, *gradients],
        "statistics": statistics,
        "evaluation": evaluated,
    }


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a network's output."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value or ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _off(ours: list[Tensor], theirs: list[Tensor], truth: list[Tensor]) -> float:
    """Return the error of ours, of what is allowed; infinity where these are other tensors."""
    if [one.shape for one in ours] != [one.shape for one in truth]:
        return float("inf")
    if not truth:  # as of statistics where all norms are layer norms
        return 0.0
    largest = max(map(_mean_square, truth))
    mine, torchs = 0.0, 0.0
    for our, their, true in zip(ours, theirs, truth, strict=True):
        unit = _mean_square(true) + largest or 1.0
        mine += _mean_square(our.double() - true) / unit
        torchs += _mean_square(their.double() - true) / unit
    return round(mine**0.5 / (2 * torchs**0.5 + 1e-4 * len(truth) ** 0.5), 3)


def _mean_square(tensor: Tensor) -> float:
    return float(tensor.square().mean())


# ---- calibrate


def calibration(new: Callable[[], nn.Module], images: list[Tensor]) -> dict[str, Any]:
    """Return the backend that calibrates, and how far statistics are off, of what is allowed."""
    ours, theirs, truth = new(), new(), new().double()
    used, why = "native", {}
    try:
        lasfast.calibrate(ours, images, backend="native")
    except ValueError as error:
        used, why = lasfast.calibrate(ours, images), {"why_not_native": str(error)}
    for network in (theirs, truth):
        _calibrate_as_pytorch_does(network, images)
    off = _off(*map(_statistics, (ours, theirs, truth)))
    return {"backend": used, "off": off, "right": off <= 1, **why}


def _statistics(network: nn.Module) -> list[Tensor]:
    """Return the statistics of all norms: means as shares of the deviation, and logarithms of variances."""
    found = []
    for norm in network.modules():
        if isinstance(norm, _BatchNorm):
            variance = norm.running_var + norm.eps
            found += [norm.running_mean / variance.sqrt(), variance.log()]
    return found


def _calibrate_as_pytorch_does(network: nn.Module, images: list[Tensor]) -> None:
    dtype = next(network.parameters()).dtype
    for norm in network.eval().modules():
        if isinstance(norm, _BatchNorm):
            norm.reset_running_stats()
            norm.momentum, norm.training = None, True
    with torch.no_grad():
        for batch in images:
            network(batch.to(dtype))


# ---- the page


@app.command()
def page(source: Path) -> None:
    """Print the record as the table of docs/any-network.md."""
    found = json.loads(source.read_text(encoding="utf-8"))["families"]
    print("| network | norms | called as they are | fused norms | calibrated by |")
    print("|---|--:|---|--:|---|")
    for name, one in found.items():
        print(f"| `{name}` | {' | '.join(_row(one))} |")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in one:
        return ("", one["failed"], "", "")
    read, accelerated, calibrated = one["read"], one["accelerate"], one.get("calibrate", {})
    opaque = "the whole" if "error" in read else ", ".join(f"`{kind}`" for kind in read["opaque"])
    fused = "refused" if "error" in accelerated else str(accelerated["fused"])
    return (str(one["norms"]), opaque, fused, calibrated.get("backend", ""))


if __name__ == "__main__":
    app()
