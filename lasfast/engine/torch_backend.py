"""The reference backend: pure PyTorch, which runs anywhere. Every other backend must agree with it.

Its results for one path do not depend on the other paths of the tree: every node runs the same operators on
the same shapes as it would alone, so sharing changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lasfast.engine.backend import Backend, NodeStatistics, too_few_values
from lasfast.engine.calibration import CONVENTIONS, RunningStatistics
from lasfast.execution.interpret import BatchNormFunction, Modules, leading, run_layer
from lasfast.ir import layers
from lasfast.ir.layers import Shape
from lasfast.ir.precision import PRECISIONS
from lasfast.ir.prefix_tree import ROOT, PrefixTree


class TorchBackend(Backend):
    """Runs layer by layer, candidate after candidate; `precision` "bf16" means autocast."""

    name = "torch"

    def calibrate(self, tree: PrefixTree, batches: Iterable[Tensor], convention: str) -> list[NodeStatistics]:
        """Return the statistics of every node (see `Backend.calibrate`)."""
        modules = dict(self.target.module.named_modules())
        running: list[dict[str, RunningStatistics]] = [{} for _ in tree.nodes]
        kind = CONVENTIONS[convention]

        def normalise(node: int) -> BatchNormFunction:
            def batch_norm(op: layers.BatchNorm2d, x: Tensor) -> Tensor:
                count = x.numel() // x.shape[1]
                if count < 2:
                    raise too_few_values(op.module, x.shape[0])
                # With momentum 1, torch leaves the batch's own mean and unbiased variance in the buffers.
                mean, variance = torch.zeros(2, op.channels, dtype=torch.float32, device=x.device)
                output = _batch_norm(modules[op.module], op, x, mean, variance, training=True)
                if op.module not in running[node]:
                    running[node][op.module] = kind(op.channels, x.device)
                running[node][op.module].update(mean, variance, x.shape[0], count)
                return output

            return batch_norm

        functions = [normalise(node) for node in range(len(tree.nodes))]
        with self.target.inference():
            for images in batches:
                for _ in self._run(tree, images, modules, functions):
                    pass
        return [{name: one.result() for name, one in node.items()} for node in running]

    def predict_batches(
        self, tree: PrefixTree, statistics: list[NodeStatistics], batches: Iterable[Tensor]
    ) -> Iterator[dict[int, Tensor]]:
        """Give the logits of every leaf for each batch (see `Backend.predict_batches`)."""
        modules = dict(self.target.module.named_modules())

        def normalise(node: int) -> BatchNormFunction:
            return lambda op, x: _batch_norm(modules[op.module], op, x, *statistics[node][op.module])

        functions = [normalise(node) for node in range(len(tree.nodes))]
        for images in batches:
            with self.target.inference():
                logits = {
                    leaf: output.float() for leaf, output in self._run(tree, images, modules, functions)
                }
            yield logits

    def peak_bytes(self, tree: PrefixTree, image_shape: Shape, images: int) -> int:
        """Return the bytes of the values alive at once, layer after layer."""
        return tree.peak_bytes(image_shape, images, PRECISIONS[self.precision].bytes)

    def prediction_batch(self, tree: PrefixTree, image_shape: Shape, budget: int) -> int:
        """Return how many images fit."""
        return max(1, budget // tree.peak_bytes(image_shape, 1, PRECISIONS[self.precision].bytes))

    def _run(
        self, tree: PrefixTree, images: Tensor, modules: Modules, functions: list[BatchNormFunction]
    ) -> Iterator[tuple[int, Tensor]]:
        """Run the tree on one batch, giving each leaf's output as it is ready."""
        self.check_images(tree, images)
        normalization = self.target.normalization
        outputs = {ROOT: images if normalization is None else normalization(images)}
        waiting = [node.uses for node in tree.nodes]
        for index, node in enumerate(tree.nodes):
            output = run_layer(node.layer, outputs[node.parent], modules, functions[index])
            if node.uses:
                outputs[index] = output
            else:
                yield index, output
            if node.parent != ROOT:
                waiting[node.parent] -= 1
                if not waiting[node.parent]:
                    del outputs[node.parent]


def _batch_norm(
    module: nn.Module,
    op: layers.BatchNorm2d,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    training: bool = False,
) -> Tensor:
    """Normalise x by mean and variance [C]; in training by its own, which are written to these."""
    assert isinstance(module, nn.BatchNorm2d)
    weight, bias = leading(module.weight, op.channels), leading(module.bias, op.channels)
    return F.batch_norm(x, mean, variance, weight, bias, training, momentum=1.0, eps=op.eps)
