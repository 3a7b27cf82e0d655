"""The answer: how many steps, how many seconds, how sure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ntkpredict.cost import CostModel
from ntkpredict.interval import Interval
from ntkpredict.record import to_plain, to_trajectory, write
from ntkpredict.refine import WeightPath
from ntkpredict.validity import Signals, Validity
from sde import Stability, Trajectory

FORMAT = 4


@dataclass(frozen=True)
class Forecast:
    """How long training will take.

    Attributes:
        steps: the median over the simulated runs; None where the target is not reached.
        steps_interval: 95 %; the upper end is None where it lies beyond the budget.
        stopping_times: steps at which training may stop, equally likely each; infinite beyond the
            budget.
        seconds: on this machine, with compiling and a validation pass an epoch; None like `steps`.
        seconds_interval: 95 %, like `steps_interval`.
        reason: why there is no number, and the loss to expect instead; None where there is one.
        trajectory: the predicted curves, one row a simulated run (an expectation: one row).
        stability: the largest stable learning rate and the noise of minibatches, at the start; None
            where no rule is known for the optimizer.
        validity: how far to trust it.
        path: the real weights along the predicted path, where there was a budget to look at them.
        cost: what a step costs on this machine.
        network: the network's name.
        data: the data's name.
        plan: the plan in one line.
        until: the stopping rule, as `parse` reads it.
        mode: of linearisation.
        kernel: ``"growing"`` or ``"frozen"``.
        solver: of the training of the tangent model.
        samples: how many training samples the forecast looked at.
        forecast_seconds: what the forecast itself cost, by phase.
        notes: what to keep in mind.
        versions: of the libraries that made it.
    """

    steps: float | None
    steps_interval: Interval | None
    stopping_times: Float[np.ndarray, " outcomes"]
    seconds: float | None
    seconds_interval: Interval | None
    reason: str | None
    trajectory: Trajectory
    stability: Stability | None
    validity: Validity
    path: WeightPath | None
    cost: CostModel
    network: str
    data: str
    plan: str
    until: str
    mode: str
    kernel: str
    solver: str
    samples: int
    forecast_seconds: dict[str, float]
    notes: tuple[str, ...]
    versions: dict[str, str]

    def probability(self, steps: int | float) -> float:
        """That training has stopped by then, in 0..1."""
        return float((self.stopping_times <= steps).mean())

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; numbers that are not finite become None."""
        return {"format": FORMAT, **to_plain(self)}

    def save(self, path: str | Path) -> None:
        """Write the forecast as JSON."""
        write(path, self.to_dict())

    @staticmethod
    def load(path: str | Path) -> Forecast:
        """Read a forecast that `save` wrote.

        Raises:
            ValueError: not a forecast, damaged, or written by another version.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            version = content["format"]
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            msg = f"path: {str(path)!r} is not a forecast ({error!r}); make one with save"
            raise ValueError(msg) from error
        if version != FORMAT:
            newer = isinstance(version, int) and version > FORMAT
            msg = (
                f"path: {str(path)!r} has format {version}, this version reads {FORMAT}; "
                f"{'upgrade ntkpredict' if newer else 'make the forecast again'}"
            )
            raise ValueError(msg)
        try:
            return _from_dict(content)
        except (KeyError, TypeError, ValueError) as error:
            msg = f"path: {str(path)!r} is damaged ({error!r}); make the forecast again"
            raise ValueError(msg) from error


def _from_dict(content: dict[str, Any]) -> Forecast:
    fields = {key: value for key, value in content.items() if key != "format"}
    fields["trajectory"] = to_trajectory(fields["trajectory"])
    cost = {**fields["cost"], "batch_seconds": tuple(fields["cost"]["batch_seconds"])}
    fields["cost"] = CostModel(**cost)
    stable = fields["stability"]
    fields["stability"] = None if stable is None else Stability(**stable)
    times = np.array(fields["stopping_times"], float)
    fields["stopping_times"] = np.where(np.isnan(times), np.inf, times)
    told = fields["validity"]
    told["signals"] = Signals(**told["signals"])
    fields["validity"] = Validity(**{**told, "clock": np.array(told["clock"], float)})
    path = fields["path"]
    if path is not None:
        names = ("growth", "kept", "formed", "predicted", "real")
        fields["path"] = WeightPath(
            steps=np.array(path["steps"], int),
            rate=float(path["rate"]),
            forward_passes=float(path["forward_passes"]),
            **{name: np.array(path[name], float) for name in names},
        )
    for name in ("steps_interval", "seconds_interval"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    fields["notes"] = tuple(fields["notes"])
    return Forecast(**fields)
