"""Plans beside one another: what each takes, and which is best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ntkpredict.candidate import Candidate, Criterion
from ntkpredict.record import read, to_plain, write

FORMAT = 1
_DRAWS = 4000


@dataclass(frozen=True)
class Ranking:
    """Plans beside one another, best first.

    Attributes:
        candidates: in the order of the criterion; those that do not reach the target come last.
        criterion: what is to be small: ``"seconds"``, ``"price"``, ``"steps"`` or ``"loss"``.
        probability_best: of each candidate, that it is the best. The errors of forecasts are taken
            as independent of each other; forecasts of one network err together, so a lead is in
            truth more certain than this.
        front: of each candidate, whether none beats it in time, money and final loss at once.
        noise_scale: tr Σ/|G|² at the start, the batch size at which noise and gradient are as large
            (McCandlish et al. 2018, arXiv:1812.06162); None without an SGD-like plan.
        critical_batch_size: per optimizer, B_c of steps = S·(1 + B_c/B), fitted to
            `steps_by_batch_size`: beyond it larger batches save few steps. None where steps do not
            fall with B, or with fewer than two batch sizes.
        steps_by_batch_size: per optimizer, [batch size, fewest steps over its learning rates].
        network: the network's name.
        data: the data's name.
        until: the stopping rule.
        within: the budget; None where only the plans' own steps limit them.
        samples: how many training samples the forecasts looked at.
        forecast_seconds: what all of it cost, by phase.
        notes: what to keep in mind.
        versions: of the libraries that made it.
    """

    candidates: tuple[Candidate, ...]
    criterion: Criterion
    probability_best: Float[np.ndarray, " candidates"]
    front: Bool[np.ndarray, " candidates"]
    noise_scale: float | None
    critical_batch_size: dict[str, float | None]
    steps_by_batch_size: dict[str, list[tuple[int, float]]]
    network: str
    data: str
    until: str
    within: str | None
    samples: int
    forecast_seconds: dict[str, float]
    notes: tuple[str, ...]
    versions: dict[str, str]

    @property
    def best(self) -> Candidate | None:
        """The first; None where no plan reaches the target."""
        first = self.candidates[0]
        return first if np.isfinite(first.value(self.criterion)) else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; numbers that are not finite become None."""
        return {"format": FORMAT, **to_plain(self)}

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write(path, self.to_dict())

    @staticmethod
    def load(path: str | Path) -> Ranking:
        """Read what `save` wrote.

        Raises:
            ValueError: not a ranking, damaged, or written by another version.
        """
        return read(path, "ranking", FORMAT, _from_dict)


def rank(candidates: list[Candidate], criterion: Criterion) -> dict[str, Any]:
    """The fields of a `Ranking` that follow from its candidates."""
    ordered = sorted(candidates, key=lambda candidate: candidate.value(criterion))
    curves = steps_by_batch_size(ordered)
    return {
        "candidates": tuple(ordered),
        "criterion": criterion,
        "probability_best": probability_best(ordered, criterion),
        "front": pareto_front(ordered),
        "steps_by_batch_size": curves,
        "critical_batch_size": {name: critical_batch_size(rows) for name, rows in curves.items()},
    }


def probability_best(
    candidates: list[Candidate], criterion: Criterion
) -> Float[np.ndarray, " candidates"]:
    """See `Ranking`; by drawing from `Candidate.outcomes`, on all machines alike."""
    seeds = {plan: seed for seed, plan in enumerate(dict.fromkeys(c.plan for c in candidates))}
    draws = np.stack(
        [
            np.random.default_rng(seeds[c.plan]).choice(c.outcomes(criterion), _DRAWS)
            for c in candidates
        ]
    )
    draws = np.where(np.isnan(draws), np.inf, draws)
    wins = np.bincount(draws.argmin(0)[np.isfinite(draws.min(0))], minlength=len(candidates))
    return wins / _DRAWS


def pareto_front(candidates: list[Candidate]) -> Bool[np.ndarray, " candidates"]:
    """See `Ranking`; what does not reach the target is never on it."""
    values = np.array([[c.value("seconds"), c.price or 0.0, c.value("loss")] for c in candidates])
    reached = np.isfinite(values).all(axis=1)
    no_worse = (values[:, None] <= values).all(axis=2) & reached[:, None]
    better = (values[:, None] < values).any(axis=2)
    return reached & ~(no_worse & better).any(axis=0)


def steps_by_batch_size(candidates: list[Candidate]) -> dict[str, list[tuple[int, float]]]:
    """See `Ranking`; on any machine, as steps do not depend on it."""
    found: dict[str, dict[int, float]] = {}
    for candidate in candidates:
        if candidate.steps is not None:
            sizes = found.setdefault(candidate.optimizer, {})
            fewest = sizes.get(candidate.batch_size, np.inf)
            sizes[candidate.batch_size] = min(fewest, candidate.steps)
    return {name: sorted(sizes.items()) for name, sizes in found.items()}


def critical_batch_size(rows: list[tuple[int, float]]) -> float | None:
    """B_c of steps = S·(1 + B_c/B), by least squares."""
    if len(rows) < 2:
        return None
    sizes, steps = np.array(rows, float).T
    slope, least = np.polyfit(1 / sizes, steps, 1)
    return float(slope / least) if slope > 0 and least > 0 else None


def _from_dict(content: dict[str, Any]) -> Ranking:
    return Ranking(
        **{
            **content,
            "candidates": tuple(map(Candidate.from_dict, content["candidates"])),
            "probability_best": np.array(content["probability_best"]),
            "front": np.array(content["front"]),
            "steps_by_batch_size": {
                name: [(int(size), steps) for size, steps in rows]
                for name, rows in content["steps_by_batch_size"].items()
            },
            "notes": tuple(content["notes"]),
        }
    )
