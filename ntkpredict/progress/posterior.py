"""Which trends, and how much noise, agree with the values so far.

Given the trend's shape, its noise σ and the correlation φ of neighbouring values, values are
Gaussian and linear in the trend's coefficients θ, so that p(θ | values) and p(values | shape, φ, σ)
are known in closed form; the latter weighs a grid of shapes, φ and σ. So a forecast's curves are
voted for by the likelihood of what was observed, beside power laws.

No run is quite like any shape, and with every value a likelihood is surer of the family that is the
less wrong. Between families only a small power of it counts, as in the coarsened posterior (Miller
and Dunson 2019, doi:10.1080/01621459.2018.1469995).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ntkpredict.progress.shapes import FEATURES, Design

Correlations = Float[np.ndarray, " correlations"]


@dataclass(frozen=True)
class NoisePrior:
    """What earlier runs tell of the noise, values being counted in the first one.

    Chosen on the development runs of `experiments/suite`.

    Attributes:
        scale: standard deviation to expect at a level of 1 and the largest learning rate.
        freedom: ν of the inverse gamma distribution of σ²: how many values that is worth.
        correlations: φ, of values one evaluation apart.
        weights: their probabilities.
    """

    scale: float = 0.025
    freedom: float = 2.0
    correlations: tuple[float, ...] = (0.0, 0.4, 0.75)
    weights: tuple[float, ...] = (0.4, 0.3, 0.3)


SHIPPED = NoisePrior()

_POWER = 0.25
"""Of the evidence between families; chosen on the development runs of `experiments/suite`."""


class Prior(NamedTuple):
    """Of the trends.

    Attributes:
        weight: of each shape.
        family: that each shape is of.
        mean: of θ.
        spread: standard deviations of θ.
    """

    weight: Float[np.ndarray, " shapes"]
    family: Int[np.ndarray, " shapes"]
    mean: Float[np.ndarray, "shapes features"]
    spread: Float[np.ndarray, "shapes features"]


class Evidence(NamedTuple):
    """What was observed, as the trends see it.

    Attributes:
        design: features of each shape.
        values: over the first one.
        variance: of each value over σ².
        gaps: evaluations since the value before.
    """

    design: Design
    values: Float[np.ndarray, " points"]
    variance: Float[np.ndarray, " points"]
    gaps: Float[np.ndarray, " points"]


class Posterior(NamedTuple):
    """p(shape, φ, σ | values) on a grid and p(θ | shape, φ, σ, values), a Gaussian.

    Attributes:
        probability: of shape, φ and σ.
        mean: of θ.
        root: R with R Rᵀ the covariance of θ.
        correlations: φ.
        noises: σ.
    """

    probability: Float[np.ndarray, "shapes correlations noises"]
    mean: Float[np.ndarray, "shapes correlations noises features"]
    root: Float[np.ndarray, "shapes correlations noises features features"]
    correlations: Correlations
    noises: Float[np.ndarray, " noises"]


class Draws(NamedTuple):
    """From a posterior.

    Attributes:
        shape: which.
        theta: its coefficients.
        correlation: φ.
        noise: σ.
    """

    shape: Int[np.ndarray, " futures"]
    theta: Float[np.ndarray, "futures features"]
    correlation: Float[np.ndarray, " futures"]
    noise: Float[np.ndarray, " futures"]


def posterior(prior: Prior, evidence: Evidence, noise: NoisePrior) -> Posterior:
    """Bayesian linear regression at every point of the grid."""
    phi = np.array(noise.correlations)
    sigma = noise.scale * np.geomspace(0.1, 10.0, 12)
    x, y, determinant = _whitened(evidence, phi)
    precision = np.einsum("kpji,kpjl->kpil", x, x)[:, :, None] / sigma[:, None, None] ** 2
    diagonal = prior.spread**-2.0
    precision[..., np.arange(FEATURES), np.arange(FEATURES)] += diagonal[:, None, None]
    right = np.einsum("kpji,pj->kpi", x, y)[:, :, None] / sigma[:, None] ** 2
    right = right + (diagonal * prior.mean)[:, None, None]
    inverse = np.linalg.inv(np.linalg.cholesky(precision))
    half = np.einsum("...ij,...j->...i", inverse, right)
    log = 0.5 * (half**2).sum(-1) + np.log(np.diagonal(inverse, axis1=-2, axis2=-1)).sum(-1)
    log -= 0.5 * (diagonal * prior.mean**2 - np.log(diagonal)).sum(1)[:, None, None]
    log -= 0.5 * (y**2).sum(1)[:, None] / sigma**2 + determinant[:, None]
    log += np.log(prior.weight)[:, None, None] + np.log(noise.weights)[:, None]
    log -= (len(y[0]) + noise.freedom) * np.log(sigma)
    log -= 0.5 * noise.freedom * (noise.scale / sigma) ** 2
    log -= (1 - _POWER) * _evidence(log, prior)[:, None, None]
    probability = np.exp(log - log.max())
    root = np.swapaxes(inverse, -1, -2)
    mean = np.einsum("...ij,...j->...i", root, half)
    return Posterior(probability / probability.sum(), mean, root, phi, sigma)


def draw(found: Posterior, futures: int, random: np.random.Generator) -> Draws:
    """So many trends with their noise."""
    share = found.probability.ravel()
    index = np.unravel_index(random.choice(len(share), futures, p=share), found.probability.shape)
    deviation = np.einsum("fij,fj->fi", found.root[index], random.normal(size=(futures, FEATURES)))
    theta = found.mean[index] + deviation
    return Draws(index[0], theta, found.correlations[index[1]], found.noises[index[2]])


def _evidence(
    log: Float[np.ndarray, "shapes correlations noises"], prior: Prior
) -> Float[np.ndarray, " shapes"]:
    """Of the values: ln p(values | family), for the family of each shape."""
    each = np.logaddexp.reduce(log.reshape(len(log), -1), axis=1)
    same = prior.family[:, None] == prior.family
    shares = np.log(np.where(same, prior.weight, 0.0).sum(axis=1))
    return np.logaddexp.reduce(np.where(same, each, -np.inf), axis=1) - shares


def _whitened(
    evidence: Evidence, phi: Correlations
) -> tuple[
    Float[np.ndarray, "shapes correlations points features"],
    Float[np.ndarray, "correlations points"],
    Correlations,
]:
    """Features and values with independent residuals of variance σ², and ½ ln of what that took."""
    weight = evidence.variance**-0.5
    x, y = evidence.design * weight[:, None], evidence.values * weight
    rho = phi[:, None] ** evidence.gaps
    rho[:, :1] = 0.0
    scale = (1 - rho**2) ** -0.5
    before_x, before_y = np.roll(x, 1, axis=1), np.roll(y, 1)
    white_x = (x[:, None] - rho[None, :, :, None] * before_x[:, None]) * scale[None, :, :, None]
    determinant = -(np.log(scale) + np.log(weight)).sum(axis=1)
    return white_x, (y - rho * before_y) * scale, determinant
