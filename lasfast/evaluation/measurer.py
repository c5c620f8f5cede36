"""The measurer: it calibrates and predicts many architectures at once, in chunks that fit in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from lasfast.engine import Backend
from lasfast.engine.backend import NodeStatistics
from lasfast.evaluation.images import Images, watch_sizes
from lasfast.evaluation.scoring import Answers
from lasfast.ir.layers import Path
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.measurements.measurement import Measurement
from lasfast.measurements.racing import Race, RaceResult
from lasfast.runtime.placement import device_of
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet

T = TypeVar("T")
logger = logging.getLogger("lasfast")


@dataclass(frozen=True)
class Measurer:
    """Calibrates and predicts the paths of a prefix tree with a backend.

    Attributes:
        supernet: owns the weights; its parameters' device is where everything runs.
        backend: computes.
        images: what is measured on.
        statistics: the convention of BatchNorm statistics (`lasfast.engine.calibration`).
        memory_budget: bytes of activations to stay within, or None.
        calibration_batch: images per batch, of tensors.
        validation_batch: the same; as many as are usual for the backend and the images if it is None.
    """

    supernet: Supernet
    backend: Backend
    images: Images
    statistics: str
    memory_budget: int | None
    calibration_batch: int
    validation_batch: int | None

    def measure(self, tree: PrefixTree) -> list[Measurement]:
        """Calibrate and predict; return the measurement of each path, its architecture left out."""
        answers = self._in_chunks(tree, lambda chunk: self._predict(chunk, self.calibrate(chunk)))
        return [self._measurement(answers[path]) for path in tree.paths]

    def calibrate(self, tree: PrefixTree) -> list[NodeStatistics]:
        """Return the BatchNorm statistics of each node of the tree."""
        batches = self.images.calibration_batches(self.calibration_batch, self._device)
        return self.backend.calibrate(tree, watch_sizes(batches, self.statistics), self.statistics)

    def race(self, race: Race, architectures: Sequence[Architecture], paths: Sequence[Path]) -> RaceResult:
        """Calibrate all, and predict part after part of the images for those that the race has not dropped.

        `paths[i]` is that of `architectures[i]`; different architectures may have the same.
        """
        statistics = self._in_chunks(_tree(paths), self._calibrate_paths)
        answers: list[list[Answers]] = [[] for _ in paths]
        for start, stop in race.parts():
            predict = partial(self._predict_part, statistics, start, stop)
            of_paths = self._in_chunks(_tree([paths[number] for number in race.alive]), predict)
            for number in race.alive:
                answers[number].append(of_paths[paths[number]])
            race.see(np.stack([answers[number][-1].right for number in race.alive]))
        measured = [
            replace(self._measurement(Answers.concatenate(parts)), architecture=architecture)
            for architecture, parts in zip(architectures, answers, strict=True)
        ]
        kept = set(race.alive)
        return RaceResult(
            kept=sorted((measured[number] for number in race.alive), key=lambda one: -one.top1),
            dropped=[one for number, one in enumerate(measured) if number not in kept],
            predicted=sum(len(part.right) for parts in answers for part in parts),
            full=race.images * len(architectures),
        )

    def _in_chunks(self, tree: PrefixTree, work: Callable[[PrefixTree], dict[Path, T]]) -> dict[Path, T]:
        """Do work for chunks of the tree that fit in the budget, halved where memory is too little.

        Return the results of all paths.
        """
        most_images = self.images.most_calibrated(self.calibration_batch)
        chunks = self.backend.chunks(tree, self.images.shape, most_images, self.memory_budget)
        results: dict[Path, T] = {}
        waiting: list[PrefixTree] = []
        while chunk := waiting.pop(0) if waiting else next(chunks, None):
            try:
                results |= work(chunk)
            except torch.OutOfMemoryError as error:
                if len(chunk.paths) == 1:
                    raise torch.OutOfMemoryError(
                        f"{self._device} has too little memory for a single candidate with calibration "
                        f"batches of {most_images} images; make them smaller ({error})"
                    ) from error
                logger.warning("not enough memory for %d candidates at once: taking half", len(chunk.paths))
                half = len(chunk.paths) // 2
                waiting[:0] = [PrefixTree(chunk.paths[:half]), PrefixTree(chunk.paths[half:])]
        return results

    def _calibrate_paths(self, tree: PrefixTree) -> dict[Path, list[NodeStatistics]]:
        """Return the BatchNorm statistics of each layer of each path."""
        nodes = self.calibrate(tree)
        return {
            path: [nodes[node] for node in tree.node_path(leaf)]
            for path, leaf in zip(tree.paths, tree.leaves, strict=True)
        }

    def _predict_part(
        self, statistics: dict[Path, list[NodeStatistics]], start: int, stop: int, tree: PrefixTree
    ) -> dict[Path, Answers]:
        """Predict images `start` to `stop` of their order, with what `_calibrate_paths` gave."""
        nodes: list[NodeStatistics] = [{} for _ in tree.nodes]
        for path, leaf in zip(tree.paths, tree.leaves, strict=True):
            for node, one in zip(tree.node_path(leaf), statistics[path], strict=True):
                nodes[node] = one
        return self._predict(tree, nodes, start, stop)

    def _predict(
        self, tree: PrefixTree, statistics: list[NodeStatistics], start: int = 0, stop: int | None = None
    ) -> dict[Path, Answers]:
        """Predict images `start` to `stop` of their order, with the statistics of the tree's nodes."""
        batch = self.validation_batch or self.backend.usual_batch(self.images.shape)
        if self.memory_budget is not None:
            batch = min(batch, self.backend.prediction_batch(tree, self.images.shape, self.memory_budget))
        parts = self.images.validation_batches(batch, self._device, start, stop)
        scores = self.backend.score_batches(tree, statistics, parts)
        return dict(zip(tree.paths, Answers.of_networks(*scores), strict=True))

    def _measurement(self, answers: Answers) -> Measurement:
        """Return the measurement that answers make, its images in the order in which they were given.

        Which images were right is left out where some were not seen.
        """
        order = self.images.order
        if order is None:
            return answers.measurement()
        if len(answers.right) < len(order):
            return replace(answers.measurement(), correct=b"")
        return answers.reordered(order).measurement()

    @property
    def _device(self) -> torch.device:
        return device_of(self.supernet)


def _tree(paths: Sequence[Path]) -> PrefixTree:
    """Return the prefix tree of some paths, each of them once."""
    return PrefixTree(list(dict.fromkeys(paths)))
