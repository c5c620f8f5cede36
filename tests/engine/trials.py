"""Trials: random networks with images, and what they give in float64."""

import copy
from dataclasses import dataclass
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.engine import CONVENTIONS
from lasfast.execution.interpret import leading, run_layer, run_op
from lasfast.ir import layers
from lasfast.ir.prefix_tree import ROOT, PrefixTree
from lasfast.ops.quantize import LEAST_ALPHA, dorefa, pact
from tests.engine.random_networks import RandomNetwork


@dataclass
class Trial:
    """A random network with images for it."""

    net: RandomNetwork
    tree: PrefixTree
    calibration: list[Tensor]
    images: Tensor
    convention: str

    @classmethod
    def of(cls, seed: int, *, quantized: bool = True) -> "Trial":
        torch.manual_seed(seed)
        net = RandomNetwork(seed, quantized=quantized)
        counts = [net.rng.randint(3, 5) for _ in range(net.rng.randint(1, 2))]
        *calibration, images = (
            torch.randn(count, *net.image_shape) * 2 + 1 for count in (*counts, net.rng.randint(1, 4))
        )
        return cls(net, PrefixTree(net.paths), calibration, images, net.rng.choice(list(CONVENTIONS)))

    def run(self, backend) -> tuple[list[dict], dict[int, Tensor]]:
        """Return the statistics of all nodes and the logits of all leaves."""
        statistics = backend.calibrate(self.tree, self.calibration, self.convention)
        return statistics, backend.predict(self.tree, statistics, self.images)

    def describe(self, node: int) -> str:
        """Return the layers up to a node as one reads them, for who mends a disagreement."""
        lines = [f"images {self.net.image_shape}, batches of {[len(one) for one in self.calibration]}"]
        shapes = self.tree.shapes(self.net.image_shape)
        for index in self.tree.node_path(node):
            layer = self.tree.nodes[index].layer
            lines.append(f"node {index}: {layer.name} on {shapes[index][0]}")
            lines += [
                f"  {number} {op} of {sources} -> {shapes[index][number]}"
                for number, (op, sources) in enumerate(layer.steps(), start=1)
            ]
        return "\n".join(lines)


@dataclass(frozen=True, order=True)
class Place:
    """What is compared: the statistics of a node's norm, or a leaf's logits."""

    node: int
    what: str


Errors = dict[Place, float]


class Truth:
    """What a trial gives in float64.

    With `noise`, every value is off by about so much, relatively, as if it had been rounded, and so are the
    statistics of norms. That tells how much rounding may change: values that nearly cancel, and norms of
    channels that hardly vary, amplify it.

    `nearest` says how near a value that is quantized comes to the middle between two levels, in levels: where
    it is very near, rounding may take either.
    """

    def __init__(self, trial: Trial, noise: float = 0.0) -> None:
        self.trial, self.noise = trial, noise
        self.modules = dict(copy.deepcopy(trial.net).double().eval().named_modules())
        self.nearest = float("inf")
        self.running: list[dict] = [{} for _ in trial.tree.nodes]
        patches = {"pact": self._pact, "dorefa": _dorefa, "run_op": self._run_op}
        with torch.no_grad(), patch.multiple("lasfast.execution.interpret", **patches):
            for batch in trial.calibration:
                self._run(batch.double(), calibrates=True)
            self.logits = self._run(trial.images.double(), calibrates=False)
        self.statistics = [
            {name: (one.mean, one.variance) for name, one in node.items()} for node in self.running
        ]

    def _run(self, images: Tensor, *, calibrates: bool) -> dict[int, Tensor]:
        outputs = {ROOT: images}
        for index, node in enumerate(self.trial.tree.nodes):

            def batch_norm(op: layers.BatchNorm2d, x: Tensor, node: int = index) -> Tensor:
                running, owner = self.running[node], self.modules[op.module]
                if calibrates:
                    count = x.numel() // x.shape[1]
                    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
                    if op.module not in running:
                        running[op.module] = CONVENTIONS[self.trial.convention](op.channels, x.device)
                    running[op.module].update(mean, variance * (count / (count - 1)), len(x), count)
                else:
                    mean, variance = running[op.module].mean, running[op.module].variance
                scales = leading(owner.weight, op.channels), leading(owner.bias, op.channels)
                mean, variance = self._rounded(mean), self._rounded(variance)
                return self._rounded(F.batch_norm(x, mean, variance, *scales, eps=op.eps))

            outputs[index] = run_layer(node.layer, outputs[node.parent], self.modules, batch_norm)
        return {leaf: outputs[leaf] for leaf in self.trial.tree.leaves}

    def _run_op(self, op: layers.Op, modules, *inputs: Tensor) -> Tensor:
        return self._rounded(run_op(op, modules, *inputs))

    def _rounded(self, x: Tensor) -> Tensor:
        return x * (1 + self.noise * torch.randn_like(x)) if self.noise else x

    def _pact(self, x: Tensor, alpha: Tensor, bits: int) -> Tensor:
        steps = (x * ((2**bits - 1) / alpha.clamp(min=LEAST_ALPHA))).clamp(-1, 2**bits)
        self.nearest = min(self.nearest, float((steps - steps.floor() - 0.5).abs().min()))
        return pact(x, alpha, bits)

    @property
    def amplifies(self) -> bool:
        """True where channels hardly vary, of which norms in a row make anything in few bits."""
        return any(
            bool((variance < self.modules[name].eps).any())
            for node in self.statistics
            for name, (_, variance) in node.items()
        )

    def errors(self, statistics: list[dict], logits: dict[int, Tensor]) -> Errors:
        """Return the relative errors, in norm; those of statistics in units of what the norm divides by."""
        found: Errors = {}
        for index, (node, truth) in enumerate(zip(statistics, self.statistics, strict=True)):
            assert node.keys() == truth.keys()
            for name, (mean, variance) in truth.items():
                spread = variance + self.modules[name].eps
                ours = node[name]
                found[Place(index, f"mean of {name}")] = relative(ours[0], mean, spread.sqrt().norm())
                found[Place(index, f"variance of {name}")] = relative(ours[1], variance, spread.norm())
        assert logits.keys() == self.logits.keys()
        for leaf, right in self.logits.items():
            found[Place(leaf, "logits")] = relative(logits[leaf], right)
        return found

    def beyond_rounding(self, errors: Errors, allowed: Errors | float) -> Errors:
        """Return the errors that are greater than allowed, and than rounding explains."""
        if isinstance(allowed, float):
            allowed, noise = dict.fromkeys(errors, allowed), 2.0**-22
        else:
            noise = 2.0**-9  # of bf16
        beyond = {place: error for place, error in errors.items() if not error <= allowed[place]}
        if not beyond:
            return {}
        # Of few numbers, one draw of the noise may happen to change little.
        drawn = [Truth(self.trial, noise) for _ in range(4)]
        explained = [self.errors(one.statistics, one.logits) for one in drawn]
        return {
            place: error
            for place, error in beyond.items()
            if not error <= 10 * max(errors[place] for errors in explained)
        }


def _dorefa(weight: Tensor, bits: int) -> Tensor:
    """The levels are those in float32, which every backend has."""
    return dorefa(weight.float(), bits).double()


def relative(ours: Tensor, truth: Tensor, scale: Tensor | float = 0.0) -> float:
    return float((ours.double() - truth).norm() / (truth.norm() + scale).clamp_min(1e-30))
