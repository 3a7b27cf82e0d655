"""Train for real under the same plan and hold the forecast against it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linearize import Network
from ntkpredict.data import Data
from ntkpredict.forecast import Forecast
from ntkpredict.history import History
from ntkpredict.interval import Interval, predicted_steps
from ntkpredict.milestones import FRACTIONS
from ntkpredict.phases import Report
from ntkpredict.plan import Plan
from ntkpredict.predict import predict
from ntkpredict.record import to_plain, write
from ntkpredict.remember import remember
from ntkpredict.stopping import StoppingRule, TargetLoss
from ntkpredict.train import Run, train


@dataclass(frozen=True)
class Comparison:
    """One target.

    Attributes:
        until: the target, as `parse` reads it.
        predicted: steps, None where not reached.
        interval: 95 %.
        real: steps of the real run, None where not reached.
    """

    until: str
    predicted: float | None
    interval: Interval | None
    real: float | None

    @property
    def error(self) -> float | None:
        """Predicted over real steps, less one; None where either was not reached."""
        if self.predicted is None or self.real is None:
            return None
        return self.predicted / self.real - 1

    @property
    def covered(self) -> bool | None:
        """Whether the interval holds the real steps; None where there is none to hold."""
        if self.interval is None or self.real is None:
            return None
        low, high = self.interval
        return low <= self.real and (high is None or self.real <= high)


@dataclass(frozen=True)
class Validation:
    """A forecast beside the real run.

    Attributes:
        forecast: made before the run.
        run: the real run.
        comparisons: the stopping rule and the fractions of the initial loss on the way to it.
        speedup: seconds of training over seconds of forecasting, both measured here; training
            without compiling, evaluating and checkpoints, the forecast with everything.
    """

    forecast: Forecast
    run: Run
    comparisons: tuple[Comparison, ...]
    speedup: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        rows = [
            {**vars(row), "error": row.error, "covered": row.covered} for row in self.comparisons
        ]
        return to_plain(
            {
                "forecast": self.forecast.to_dict(),
                "run": self.run.to_dict(),
                "comparisons": rows,
                "speedup": self.speedup,
            }
        )

    def save(self, path: str | Path) -> None:
        """Write everything but the weights as JSON."""
        write(path, self.to_dict())


def validate(
    network: Network,
    data: Data,
    plan: Plan,
    until: StoppingRule | None = None,
    *,
    history: History | None = None,
    report: Report | None = None,
    **options: Any,
) -> Validation:
    """Forecast, then train for real until the same rule stops it.

    Args:
        network: the network; it is not changed.
        data: the data.
        plan: the plan.
        until: the stopping rule; a tenth of the initial training loss where None.
        history: where both are kept, if anywhere.
        report: for progress bars.
        **options: passed on to `predict`.

    Raises:
        ValueError: as `predict`.
    """
    until = TargetLoss(relative=0.1) if until is None else until
    report = report or (lambda _: lambda _done, _total: None)
    forecast = predict(network, data, plan, until, report=report, **options)
    run = train(network, data, plan, until, progress=report("training for real"))
    remember(history, network, data, plan, until, forecast, run)
    spent = sum(forecast.forecast_seconds.values())
    return Validation(forecast, run, compare_targets(forecast, run, until), run.seconds / spent)


def compare_targets(
    forecast: Forecast,
    run: Run,
    until: StoppingRule,
    fractions: tuple[float, ...] = FRACTIONS,
) -> tuple[Comparison, ...]:
    """The stopping rule, and the fractions of the initial loss that the real run reached.

    Args:
        forecast: the forecast.
        run: the real run.
        until: the rule that both went by.
        fractions: of the initial training loss.
    """
    loss = run.trajectory.train.loss[0]
    reached = [TargetLoss(relative=f) for f in fractions if (loss <= f * loss[0]).any()]
    rows = [_compare(forecast, run, target) for target in reached if str(target) != str(until)]
    own = Comparison(str(until), forecast.steps, forecast.steps_interval, run.steps)
    return (*rows, own)


def _compare(forecast: Forecast, run: Run, target: StoppingRule) -> Comparison:
    told = forecast.validity
    predicted, interval = predicted_steps(forecast.trajectory, target, told.clock, told.shift)
    return Comparison(str(target), predicted, interval, float(target.steps(run.trajectory)[0]))
