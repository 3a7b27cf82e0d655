"""A ranking as a person sees it in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ntkpredict.candidate import Candidate
from ntkpredict.ranking import Ranking
from ntkpredict.units import duration, interval_text


def show_ranking(console: Console, ranking: Ranking) -> None:
    """The answer first, then every plan, best first."""
    console.print(f"Fine-tuning {ranking.network} on {ranking.data}", style="dim")
    console.print(_answer(ranking))
    prices = any(candidate.price is not None for candidate in ranking.candidates)
    machines = len({candidate.machine for candidate in ranking.candidates}) > 1
    console.print(_table(ranking, prices=prices, machines=machines))
    console.print(
        "front: nothing else is as quick, as cheap and ends with as small a loss; best: the "
        "probability of it; margin: how many times the learning rate could grow and be stable.",
        style="dim",
    )
    for optimizer, rows in ranking.steps_by_batch_size.items():
        curve = ", ".join(f"{steps:,.0f} at {size}" for size, steps in rows)
        critical = ranking.critical_batch_size[optimizer]
        beyond = "" if critical is None else f"; critical batch size about {critical:.2g}"
        console.print(f"{optimizer}: fewest steps by batch size {curve}{beyond}.", style="dim")
    if ranking.noise_scale is not None:
        console.print(f"Gradient noise scale at the start {ranking.noise_scale:.2g}.", style="dim")
    spent = sum(ranking.forecast_seconds.values())
    console.print(f"{len(ranking.candidates)} forecasts took {spent:.1f} s.", style="dim")
    for note in ranking.notes:
        console.print(f"Note: {note}", style="dim")


def _answer(ranking: Ranking) -> str:
    best = ranking.best
    goal = ranking.until if ranking.within is None else f"{ranking.until} within {ranking.within}"
    if best is None:
        return f"[bold red]No plan gets there:[/] {goal}. {ranking.candidates[0].reason}"
    price = "" if best.price is None else f", {best.price:.2f} USD"
    where = "" if best.machine.name == "this machine" else f" on {best.machine.name}"
    chance = ranking.probability_best[0]
    return (
        f"Least {ranking.criterion} to {goal}: [bold green]{best.plan}[/]{where}, about "
        f"[bold green]{best.steps:,.0f} steps[/], [bold green]{duration(best.seconds)}[/]{price}, "
        f"final loss {best.final_loss:.3g}; the best with a probability of {chance:.0%}."
    )


def _table(ranking: Ranking, *, prices: bool, machines: bool) -> Table:
    table = Table("plan", *["machine"] * machines)
    for column in ("steps", "95 % interval", "time", *["USD"] * prices, "loss", "accuracy"):
        table.add_column(column, justify="right")
    for column in ("margin", "trust", "best", "front"):
        table.add_column(column)
    rows = zip(ranking.candidates, ranking.probability_best, ranking.front, strict=True)
    for candidate, chance, on_front in rows:
        cells = [candidate.plan, *[candidate.machine.name] * machines]
        cells += _numbers(candidate, prices=prices)
        best = f"{chance:.0%}" if chance >= 0.005 else ""
        table.add_row(*cells, candidate.validity.word, best, "●" if on_front else "")
    return table


def _numbers(candidate: Candidate, *, prices: bool) -> list[str]:
    margin = "-" if candidate.stability is None else f"{candidate.stability.margin:.2g}x"
    loss, accuracy = f"{candidate.final_loss:.3g}", candidate.validation_accuracy
    if candidate.diverged:
        loss, accuracy = "-", None
    reached = [
        "[red]diverges[/]" if candidate.diverged else f"> {candidate.limit:,}",
        "-",
        "-",
        *["-"] * prices,
    ]
    if candidate.steps is not None and not candidate.diverged:
        price = "-" if candidate.price is None else f"{candidate.price:.2f}"
        steps = f"{candidate.steps:,.0f}"
        interval = interval_text(candidate.steps_interval, "")
        reached = [steps, interval, duration(candidate.seconds), *[price] * prices]
    return [
        *reached,
        loss,
        "-" if accuracy is None else f"{accuracy:.1%}",
        margin,
    ]
