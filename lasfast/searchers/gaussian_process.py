"""Gaussian process regression on architectures, which correlate the less the more decisions differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads linalg and optimize when they are first asked for, which takes half a second
from numpy.typing import NDArray

from lasfast.spaces import Architecture

Array = NDArray[np.float64]

DECAYS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""The decays of the correlation with each differing decision, of which the likeliest is begun with."""
NOISES = (1e-4, 1e-3, 1e-2, 0.1, 0.3)
"""The variance of a value that the architecture does not explain, relative to all: where to begin."""
SPREAD = 1.0
"""The standard deviation of the logarithms of decays and noise before anything is known."""
ITERATIONS = 30
SPARE = 32
"""So many rows are allocated at a time for what is supposed."""


@dataclass(frozen=True)
class Kernel:
    """The correlation of two architectures' values, ``exp(-sum of the decays of the differing decisions)``.

    Attributes:
        decays: one for each decision, [decisions].
        noise: the variance of a value that the architecture does not explain, relative to all.
    """

    decays: Array
    noise: float


def likeliest_kernel(architectures: Sequence[Architecture], values: Array) -> Kernel:
    """Return the decays and the noise that explain values best.

    They maximise the marginal likelihood (Rasmussen and Williams 2006, Eq. 5.8; one decay for each dimension
    is "automatic relevance determination"), times a log-normal prior around what is likeliest if all
    decisions have the same decay.

    Args:
        architectures: those whose values are known, [N].
        values: their values, [N], of about mean 0 and variance 1.
    """
    known = np.array(architectures)
    differing = np.moveaxis(known[:, None] != known[None], 2, 0).astype(np.float64)
    count = differing.sum(0)
    correlations = ((decay, np.exp(-decay * count)) for decay in DECAYS)
    _, decay, noise = max(
        (_log_likelihood(alike, noise, values)[0], decay, noise)
        for decay, alike in correlations
        for noise in NOISES
    )
    first = np.log([decay] * len(differing) + [noise])
    found = scipy.optimize.minimize(
        _loss, first, (first, differing, values), "L-BFGS-B", True, options={"maxiter": ITERATIONS}
    )
    *decays, noise = np.exp(found.x)
    return Kernel(np.array(decays), float(noise))


class GaussianProcess:
    """A Gaussian process whose correlation falls by a factor of its own with each decision that differs.

    Args:
        kernel: the correlation, and the noise of values.
        architectures: those whose values are known, [N].
        values: their values, [N], of about mean 0 and variance 1.
    """

    def __init__(self, kernel: Kernel, architectures: Sequence[Architecture], values: Array) -> None:
        self.kernel = kernel
        self._known = np.array(architectures)
        covariance = self.correlation(self._known, self._known) + kernel.noise * np.eye(len(values))
        self._factor = scipy.linalg.cho_factor(covariance, lower=True)
        self._weights = scipy.linalg.cho_solve(self._factor, values)

    def correlation(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> Array:
        """Return the correlations of architectures [N, decisions] and [M, decisions], [N, M]."""
        total = np.zeros((len(one), len(other)))
        for decision, decay in enumerate(self.kernel.decays):
            options, places = np.unique(one[:, decision], return_inverse=True)
            rows = decay * (options[:, None] != other[None, :, decision])  # of few options, one for each
            total += rows[places]
        return np.exp(-total)

    def predict(self, architectures: Sequence[Architecture]) -> Prediction:
        """Return what is expected of other architectures."""
        others = np.array(architectures)
        correlations = self.correlation(self._known, others)
        explained = scipy.linalg.solve_triangular(self._factor[0], correlations, lower=True)
        return Prediction(self, others, correlations.T @ self._weights, explained)


class Prediction:
    """The expectations that a Gaussian process has of architectures.

    Attributes:
        mean: the expected values, [M].
        variance: the variances of the values without noise, [M].
    """

    def __init__(
        self, process: GaussianProcess, architectures: NDArray[np.int64], mean: Array, explained: Array
    ):
        self._process, self._architectures = process, architectures
        self._explained, self._rows = explained, len(explained)
        self.mean = mean
        self.variance = np.maximum(1 - (explained**2).sum(0), 1e-12)

    def suppose(self, place: int) -> None:
        """Let the value of the architecture at a place be its mean, which leaves less variance elsewhere."""
        one = self._architectures[place : place + 1]
        prior = self._process.correlation(one, self._architectures)[0]
        explained = self._explained[: self._rows]
        covariance = prior - explained[:, place] @ explained
        scale = 1 / np.sqrt(self.variance[place] + self._process.kernel.noise)
        if self._rows == len(self._explained):  # its rows are copied once for many more, not once for each
            spare = np.empty((SPARE, explained.shape[1]), order="F")
            self._explained = np.asfortranarray(np.vstack([explained, spare]))
        self._explained[self._rows] = covariance * scale
        self._rows += 1
        self.variance = np.maximum(self.variance - (covariance * scale) ** 2, 1e-12)


def _loss(parameters: Array, first: Array, differing: Array, values: Array) -> tuple[float, Array]:
    """Return the negative logarithm of likelihood and prior, and its gradient.

    Args:
        parameters: the logarithms of the decays and of the noise, [decisions + 1].
        first: the means of the prior, [decisions + 1].
        differing: 1 where two architectures differ in a decision, [decisions, N, N].
        values: [N].
    """
    decays, noise = np.exp(parameters[:-1]), float(np.exp(parameters[-1]))
    correlations = np.exp(-np.tensordot(decays, differing, 1))
    likelihood, slopes_of = _log_likelihood(correlations, noise, values)
    slopes = slopes_of()
    of_decays = -decays * np.tensordot(differing, slopes * correlations, 2) / 2
    gradient = np.append(of_decays, noise * np.trace(slopes) / 2)
    away = (parameters - first) / SPREAD
    return float(away @ away / 2 - likelihood), away / SPREAD - gradient


def _log_likelihood(correlations: Array, noise: float, values: Array) -> tuple[float, Callable[[], Array]]:
    """Return the log marginal likelihood of values, but for a constant, with the likeliest scale of all.

    And what gives twice its gradient by the covariances, [N, N].
    """
    factor = scipy.linalg.cho_factor(correlations + noise * np.eye(len(values)), lower=True)
    weights = scipy.linalg.cho_solve(factor, values)
    scale = max(float(values @ weights) / len(values), 1e-12)
    likelihood = -len(values) / 2 * np.log(scale) - float(np.log(np.diag(factor[0])).sum())

    def slopes() -> Array:
        return np.outer(weights, weights) / scale - scipy.linalg.cho_solve(factor, np.eye(len(values)))

    return likelihood, slopes
