"""What a person sees in a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ntkpredict.forecast import Forecast
from ntkpredict.milestones import milestones
from ntkpredict.phases import Report
from ntkpredict.ranking import Ranking
from ntkpredict.ranking_table import show_ranking
from ntkpredict.score import Scores, Summary
from ntkpredict.train import Run
from ntkpredict.units import duration, interval_text
from ntkpredict.validate import Validation
from ntkpredict.validity import Validity
from sde import Stability


@contextmanager
def progress_bars(console: Console, *, quiet: bool) -> Iterator[Report | None]:
    """Bars with the remaining time, one a phase; nothing where quiet or not a terminal."""
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description:>20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:

        def report(phase: str) -> Callable[[int, int], None]:
            task = bars.add_task(phase, total=None)
            return lambda done, total: bars.update(task, completed=int(done), total=int(total))

        yield report


def show(console: Console, result: Forecast | Run | Validation | Scores | Ranking) -> None:
    """Any of the results."""
    if isinstance(result, Ranking):
        show_ranking(console, result)
        return
    if isinstance(result, Forecast):
        _show_forecast(console, result)
    elif isinstance(result, Run):
        _show_run(console, result)
    elif isinstance(result, Scores):
        _show_scores(console, result)
    else:
        _show_validation(console, result)


def _show_forecast(console: Console, forecast: Forecast) -> None:
    """The answer first, then the way there."""
    _show_task(console, forecast)
    if forecast.steps is None:
        console.print(f"[bold red]No forecast:[/] {forecast.reason}")
    else:
        console.print(
            f"[bold]{forecast.until}[/] after about [bold green]{forecast.steps:,.0f} steps[/], "
            f"{interval_text(forecast.steps_interval, '')}: "
            f"[bold green]{duration(forecast.seconds)}[/], "
            f"{interval_text(forecast.seconds_interval, 's')} on this machine"
        )
    table = Table(
        "training loss", "steps", "95 % interval", title="On the way", title_justify="left"
    )
    for row in milestones(forecast):
        loss = f"{row.loss:.3f} ({row.fraction:g}x)"
        table.add_row(loss, f"{row.steps:,.0f}", interval_text(row.interval, ""))
    console.print(table)
    console.print(_validity(forecast.validity), style="dim")
    if forecast.stability is not None:
        console.print(_stability(forecast.stability), style="dim")
    spent = sum(forecast.forecast_seconds.values())
    console.print(
        f"One batch takes {1e3 * forecast.cost.batch_seconds[1]:.1f} ms here, compiling "
        f"{forecast.cost.compile_seconds:.1f} s. This forecast took {spent:.1f} s.",
        style="dim",
    )
    for note in forecast.notes:
        console.print(f"Note: {note}", style="dim")


def _validity(validity: Validity) -> str:
    return (
        f"How far to trust it: [bold]{validity.word}[/]; half of such forecasts were within "
        f"{100 * validity.error:.0f} % of the real steps."
        + f" Calibrated on {validity.own_runs} of your own runs."
        * bool(validity.own_runs)
    )


def _show_run(console: Console, run: Run) -> None:
    """How a real run went."""
    curves = run.trajectory
    table = Table("step", "training loss", "accuracy", "validation loss", "accuracy")
    for i in np.unique(np.linspace(0, len(curves.steps) - 1, 12).astype(int)):
        cells = [f"{curves.train.loss[0, i]:.4f}", f"{curves.train.accuracy[0, i]:.3f}"]
        if curves.validation is not None:
            cells += [
                f"{curves.validation.loss[0, i]:.4f}",
                f"{curves.validation.accuracy[0, i]:.3f}",
            ]
        table.add_row(f"{curves.steps[i]:,}", *cells)
    console.print(table)
    met = f"met after {run.steps:,.0f} steps" if run.steps is not None else "not met"
    console.print(
        f"Stopping rule {met}; {run.trained_steps:,} steps in {run.seconds:.1f} s, and "
        f"{run.overhead_seconds:.1f} s of compiling and evaluating."
    )


def _show_validation(console: Console, validation: Validation) -> None:
    """The forecast and the real run side by side."""
    _show_task(console, validation.forecast)
    table = Table("until", "predicted", "95 % interval", "real", "error", "covered")
    for row in validation.comparisons:
        table.add_row(
            row.until,
            _number(row.predicted),
            interval_text(row.interval, ""),
            _number(row.real),
            "-" if row.error is None else f"{row.error:+.1%}",
            {None: "-", True: "yes", False: "[red]no[/]"}[row.covered],
        )
    console.print(table)
    forecast, run = validation.forecast, validation.run
    if forecast.reason is not None:
        console.print(f"Forecast: {forecast.reason}")
    console.print(
        f"Forecasting took {sum(forecast.forecast_seconds.values()):.1f} s, training "
        f"{run.seconds:.1f} s for {run.trained_steps:,} steps: "
        f"{validation.speedup:.2g} times as long."
    )


def _show_scores(console: Console, scores: Scores) -> None:
    """Tables by forecaster and split; errors are those of targets that are really reached."""
    columns = ("count", "missed", "invented", "error", "95 %", "bias", "≤15 %", "covered", "width")
    for forecaster in scores.rows:
        summaries = scores.summaries(forecaster, ("split", "distance"))
        for split in dict.fromkeys(s for (s, _), row in summaries.items() if row.targets):
            title = f"[bold]{forecaster}[/], {split}"
            table = Table("", title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
            for column in (*columns, "flagged", "faster"):
                table.add_column(column, justify="right")
            for (_, distance), row in ((k, v) for k, v in summaries.items() if k[0] == split):
                table.add_row(distance, *_score_cells(row))
            console.print(table)
        missing = sum(row.missing for row in summaries.values())
        diverged = sum(row.diverged for row in summaries.values())
        told = sum(row.diverged * (row.diverged_told or 0) for row in summaries.values())
        console.print(
            f"{missing} targets not answered; {diverged} runs diverged, {told:.0f} foretold.\n",
            style="dim",
        )


def _score_cells(row: Summary) -> tuple[str, ...]:
    return (
        str(row.targets),
        _percent(row.missed),
        _percent(row.invented),
        _percent(row.error_median),
        _percent(row.error_95),
        _percent(None if row.bias is None else math.expm1(row.bias), "+"),
        _percent(row.within_15),
        _percent(row.coverage),
        _times(row.width),
        _percent(row.flagged),
        _times(row.speedup_seconds),
    )


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else "∞" if math.isinf(value) else f"{value:{sign}.0%}"


def _times(value: float | None) -> str:
    return "-" if value is None else "∞" if math.isinf(value) else f"{value:.2g}x"


def _show_task(console: Console, forecast: Forecast) -> None:
    console.print(
        f"Fine-tuning {forecast.network} on {forecast.data}: {forecast.plan}", style="dim"
    )


def _stability(stable: Stability) -> str:
    limit = f"the largest stable one, about {stable.critical_learning_rate:.2g}"
    if stable.margin < 1:
        relation = f"is {1 / stable.margin:.2g} times {limit}"
    else:
        relation = f"is below {limit}"
    noise = "" if stable.noise_mass < 1 else "; near or above 1, batches are too noisy"
    return (
        f"The learning rate, {stable.learning_rate:.2g}, {relation}. "
        f"Noise mass {stable.noise_mass:.2g}{noise}."
    )


def _number(value: float | None) -> str:
    return "not reached" if value is None else f"{value:,.0f}"
