"""Splits of a set of images into parts, by seeded, stratified choices of their indices. No image is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lasfast.data.errors import DataError

Indices = NDArray[np.int64]


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed, a pure function of ``parts`` that is the same in every process and machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stratified_counts(sizes: Indices, count: int) -> Indices:
    """Return how many of ``count`` images each class gives up, in proportion to its size, [classes].

    What does not divide goes by largest remainders, of equal ones to the earlier class. Every class that has
    images keeps at least one.

    Raises:
        DataError: the classes cannot give up that many.
    """
    room = np.maximum(sizes - 1, 0)
    if count > room.sum():
        raise DataError(
            f"cannot hold {count} images out of {sizes.sum()} in {len(sizes)} classes: every class keeps at "
            f"least one image, so at most {room.sum()} can be held out"
        )
    share = sizes * (count / max(int(sizes.sum()), 1))
    taken = np.minimum(np.floor(share).astype(np.int64), room)
    while (missing := count - int(taken.sum())) > 0:
        need = np.where(taken < room, share - taken, -np.inf)
        open_classes = int((taken < room).sum())
        taken[np.argsort(-need, kind="stable")[: min(missing, open_classes)]] += 1
    return taken


def balanced_counts(sizes: Indices, count: int) -> Indices:
    """Return how many images each class gives to a class-balanced subset of ``count``, [classes].

    The numbers are as even as the classes allow: a class with too few gives all it has, and the others make
    up for it. What does not divide goes to the earlier classes. A ``count`` beyond all images takes them all.
    """
    count = min(count, int(sizes.sum()))
    taken = np.zeros_like(sizes)
    while (missing := count - int(taken.sum())) > 0:
        open_classes = np.flatnonzero(taken < sizes)
        each = missing // len(open_classes)
        if each == 0:
            taken[open_classes[:missing]] += 1
        else:
            taken[open_classes] += np.minimum(each, sizes[open_classes] - taken[open_classes])
    return taken


def choose(labels: Indices, counts: Indices, seed: int) -> Indices:
    """Choose ``counts[c]`` random positions of each class ``c`` in ``labels``; return them ascending."""
    chosen = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        generator = np.random.default_rng(derive_seed("choose", seed, label))
        chosen.append(generator.permutation(members)[:count])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def even_batches(images: int, batch_size: int) -> list[slice]:
    """Cut positions 0 to ``images`` into batches whose sizes differ by one at most, the larger ones first.

    There are as few as can be of at most ``batch_size``. No batch is so small that its statistics are those
    of a few images.
    """
    batches = -(-images // batch_size)
    size, larger = divmod(images, batches)
    starts = [number * size + min(number, larger) for number in range(batches + 1)]
    return [slice(start, stop) for start, stop in pairwise(starts)]


def spread(images: int, count: int) -> list[int]:
    """Return at most ``count`` of the positions 0 to ``images``, evenly spread from the first to the last."""
    chosen: list[int] = np.linspace(0, images - 1, min(count, images)).round().astype(np.int64).tolist()
    return chosen


def class_sizes(labels: Indices, num_classes: int) -> Indices:
    """Return the number of images of each class, [classes]."""
    return np.bincount(labels, minlength=num_classes).astype(np.int64)


def hold_out(labels: Indices, num_classes: int, count: int, seed: int) -> tuple[Indices, Indices]:
    """Split positions into (kept, held out), ``count`` of them held out in proportion to the classes."""
    held = choose(labels, stratified_counts(class_sizes(labels, num_classes), count), seed)
    kept = np.setdiff1d(np.arange(len(labels)), held)
    return kept, held


def balanced_subset(labels: Indices, num_classes: int, count: int, seed: int) -> Indices:
    """Return the positions of a class-balanced random subset of at most ``count`` images, ascending."""
    return choose(labels, balanced_counts(class_sizes(labels, num_classes), count), seed)


@dataclass(frozen=True)
class Split:
    """Positions of the images of each part in the pool of training images, ascending.

    ``calibration`` is a part of ``train``; ``validation`` and ``train`` are disjoint.
    """

    train: Indices
    calibration: Indices
    validation: Indices


def split_pool(
    labels: Indices,
    num_classes: int,
    *,
    validation: int,
    limit: int | None,
    calibration: int,
    seed: int,
    training: int | None = None,
) -> Split:
    """Hold ``validation`` images out, keep at most ``limit`` others, and choose ``calibration`` of those.

    Where only the first ``training`` images are to train on, the ``validation`` images are taken of the rest.
    Validation is in proportion to the classes and does not depend on ``limit``, so that runs on parts of a
    set are compared on the same images; the other two are class-balanced.

    Raises:
        DataError: the classes are too small for ``validation``.
    """
    held_by = derive_seed("validation", seed)
    if training is None:
        train, held = hold_out(labels, num_classes, validation, held_by)
    else:
        train, held = np.arange(training), np.arange(training, len(labels))
        if validation < len(held):
            held = training + hold_out(labels[held], num_classes, validation, held_by)[1]
    if limit is not None:
        train = train[balanced_subset(labels[train], num_classes, limit, derive_seed("limit", seed))]
    chosen = balanced_subset(labels[train], num_classes, calibration, derive_seed("calibration", seed))
    return Split(train, train[chosen], held)
