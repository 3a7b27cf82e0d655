"""The figures of plans beside one another."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ntkpredict.candidate import Candidate
from ntkpredict.ranking import Ranking
from ntkpredict.report.figure import (
    COLORS,
    Axis,
    Band,
    Cells,
    Figure,
    Line,
    Points,
)
from ntkpredict.report.forecast_figures import fan
from ntkpredict.units import duration

UNITS = {"seconds": "seconds", "price": "dollars", "steps": "steps", "loss": "final loss"}

Cost = Callable[[Candidate], float | None]


def ranking_figures(ranking: Ranking) -> list[Figure]:
    """Heat maps, Pareto plots, the best plans' curves, and steps against batch size."""
    costs: tuple[tuple[str, str, Cost], ...] = (
        ("pareto", "seconds", lambda candidate: candidate.seconds),
        ("price", "USD", lambda candidate: candidate.price),
    )
    front = [
        _pareto(ranking, name, unit, value)
        for name, unit, value in costs
        if any(value(c) and np.isfinite(c.value("seconds")) for c in ranking.candidates)
    ]
    curves = {name: rows for name, rows in ranking.steps_by_batch_size.items() if len(rows) > 1}
    sizes = [_sizes(curves, ranking.critical_batch_size)] if curves else []
    return [*_heat_maps(ranking), *front, _best(ranking), *sizes]


def _heat_maps(ranking: Ranking) -> list[Figure]:
    """Of each optimizer, on the machine where each plan does best."""
    grouped: dict[str, list[Candidate]] = {}
    for candidate in ranking.candidates:
        if candidate.learning_rate is not None:
            grouped.setdefault(candidate.optimizer, []).append(candidate)
    return [
        _heat_map(ranking, name, candidates)
        for name, candidates in grouped.items()
        if len({(c.learning_rate, c.batch_size) for c in candidates}) > 1
    ]


def _heat_map(ranking: Ranking, optimizer: str, candidates: list[Candidate]) -> Figure:
    rates = sorted({c.learning_rate for c in candidates if c.learning_rate is not None})
    sizes = sorted({c.batch_size for c in candidates})
    values = np.full((len(rates), len(sizes)), np.nan)
    texts = np.full(values.shape, "", object)
    for candidate in reversed(candidates):  # best first, so that the best is written last
        place = rates.index(candidate.learning_rate or 0), sizes.index(candidate.batch_size)
        value = candidate.value(ranking.criterion)
        values[place] = np.log(value) if 0 < value < np.inf else np.nan
        texts[place] = _cell(ranking, candidate, value)
    slug = re.sub(r"[^a-z0-9]+", "-", optimizer.lower()).strip("-")
    unit = UNITS[ranking.criterion]
    return Figure(
        f"heat-{slug}",
        f"{unit.capitalize()} with {optimizer}",
        f"To {ranking.until}; what is small is bright. Empty: not reached.",
        Axis("batch size"),
        Axis("learning rate"),
        (
            Cells(
                tuple(map(str, sizes)),
                tuple(f"{rate:g}" for rate in rates),
                values,
                tuple(map(tuple, texts.tolist())),
            ),
        ),
    )


def _cell(ranking: Ranking, candidate: Candidate, value: float) -> str:
    if candidate.diverged:
        return "diverges"
    if not np.isfinite(value):
        return f"> {candidate.limit:,} steps"
    if ranking.criterion == "seconds":
        return duration(value)
    return f"{value:,.0f}" if ranking.criterion == "steps" else f"{value:.3g}"


def _pareto(ranking: Ranking, name: str, unit: str, value: Cost) -> Figure:
    layers = []
    for filled, title in ((False, "other plans"), (True, "on the front")):
        rows = [
            (rank, candidate, value(candidate))
            for rank, candidate in enumerate(ranking.candidates, 1)
            if np.isfinite(candidate.value("seconds")) and ranking.front[rank - 1] == filled
            if value(candidate)
        ]
        layers.append(
            Points(
                title,
                np.array([x for *_, x in rows], float),
                np.array([candidate.final_loss for _, candidate, _ in rows], float),
                "blue" if filled else "grey",
                tuple(f"{rank}: {c.plan}, {c.machine.name}" for rank, c, _ in rows),
                tuple(str(rank) for rank, *_ in rows) if filled else (),
                filled,
            )
        )
    return Figure(
        name,
        f"What quality costs, in {unit}",
        "Nothing beats a plan on the front in time, money and final loss at once. Numbers are "
        "those of the table.",
        Axis(unit, log=True),
        Axis("final loss"),
        tuple(layers),
    )


def _best(ranking: Ranking) -> Figure:
    """Over time, as batches of different sizes take different times."""
    first: dict[str, Candidate] = {}
    for candidate in ranking.candidates:
        first.setdefault(candidate.plan, candidate)
    layers: list[Line | Band] = []
    for candidate, color in zip(first.values(), COLORS, strict=False):
        curves = candidate.trajectory
        x = candidate.overhead_seconds + candidate.seconds_per_step * curves.steps
        split = "train" if curves.validation is None else "validation"
        if not layers:
            low, *_, high = fan(curves, candidate.validity.clock).curve(split).loss
            layers.append(Band("", x, low, high, color))
        layers.append(Line(candidate.plan, x, curves.curve(split).loss[0], color))
    split = "training" if ranking.candidates[0].validation_loss is None else "validation"
    return Figure(
        "curves",
        f"Predicted {split} loss of the best plans",
        "Medians, each on the machine where it does best, with the 95 % band of the best one.",
        Axis("seconds"),
        Axis(f"{split} loss", log=True),
        tuple(layers),
    )


def _sizes(
    curves: dict[str, list[tuple[int, float]]], critical_batch_size: dict[str, float | None]
) -> Figure:
    layers: list[Line | Points] = []
    for (name, rows), color in zip(curves.items(), COLORS, strict=False):
        sizes, steps = np.array(rows, float).T
        critical = critical_batch_size[name]
        layers.append(Points(name, sizes, steps, color))
        if critical is not None:
            least = np.polyfit(1 / sizes, steps, 1)[1]
            x = np.geomspace(sizes[0], sizes[-1], 50)
            layers.append(Line("", x, least * (1 + critical / x), color))
    return Figure(
        "batches",
        "Fewest steps by batch size",
        "Over the learning rates compared, with the fit of steps = S·(1 + B_c/B): beyond the "
        "critical batch size B_c larger batches save few steps.",
        Axis("batch size", log=True),
        Axis("steps", log=True),
        tuple(layers),
    )
