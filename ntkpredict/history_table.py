"""The history as a person sees it in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ntkpredict.history import Record


def show_records(console: Console, records: list[Record]) -> None:
    """One line a record, oldest first."""
    table = Table("id", "time (UTC)", "kind", "of")
    table.add_column("steps", justify="right")
    for record in records:
        task, steps = record.task, record.result.get("steps")
        table.add_row(
            str(record.id),
            record.time[:16].replace("T", " "),
            record.kind,
            f"{task.network} on {task.data}: {task.plan}"
            + f", until {task.until}" * bool(task.until),
            "-" if steps is None else f"{steps:,.0f}",
        )
    console.print(table)
