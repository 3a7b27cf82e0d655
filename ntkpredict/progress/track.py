"""The indicator around any loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from ntkpredict.cost import Clock
from ntkpredict.forecast import Forecast
from ntkpredict.optional import require
from ntkpredict.progress.cancel import Agree, Cancel
from ntkpredict.progress.extra import Evaluate, ExtraPoints
from ntkpredict.progress.indicator import Indicator
from ntkpredict.progress.panel import Display
from ntkpredict.progress.serving import Serve, open_page
from ntkpredict.progress.tracker import Tracker
from ntkpredict.progress.view import View
from ntkpredict.stopping import StoppingRule, Watch, parse


def track(
    run: Forecast | Iterable[Any] | int,
    until: StoppingRule | str | tuple[Watch, ...] | None = None,
    *,
    max_steps: int | None = None,
    forecast: Forecast | None = None,
    extra: Evaluate | None = None,
    budget: float = 0.01,
    console: Console | None = None,
    quiet: bool = False,
    title: str = "Training",
    serve: Serve = False,
    checkpoint: Callable[[], object] | None = None,
    agree: Agree | None = None,
    tensorboard: str | Path | None = None,
    clock: Clock = time.monotonic,
    **options: Any,
) -> Tracker:
    """Follow a training loop and show how long it will still take.

    >>> progress = track(100, "patience>=2@10", quiet=True)
    >>> for step in progress:
    ...     if step % 10 == 0:
    ...         with progress.validating():
    ...             loss = max(1 / step, 0.02)
    ...         progress.report(validation_loss=loss)
    ...     if progress.stopped:
    ...         break
    >>> step
    70

    Args:
        run: a forecast of the run, whose budget and rule are taken; or a number of steps, in both
            cases for a loop over 1, 2, … from `start` on; or what the loop iterates over, one item
            a step.
        until: the rule that stops the loop, or what `parse` reads.
        max_steps: the most steps there will be; needed where `run` has no length.
        forecast: made before launch; the curve is expected to be like its.
        extra: samples -> value of the first metric that the rule looks at, on so many random
            validation samples: taken now and then, for the curve alone. `validation_samples` is
            needed with it.
        budget: the share of the time that `extra` may take.
        console: where to show it; the standard error where None. In a terminal a panel, else a
            line a minute.
        quiet: show nothing.
        title: of the run.
        serve: a page on loopback that shows the same, live, and can cancel the run: at any free
            port, or at this one. Its address is told where the rest is shown, and is `url`.
        checkpoint: called when the run is cancelled on its page, before it stops.
        agree: of the processes of a run that has several: whether a flag is set in any of them,
            such as ``lambda flag: bool(process_allgather(flag).any())`` of
            `jax.experimental.multihost_utils`. It is called after each step in all of them, so that
            they stop after the same one, whoever is asked to. Without it such a run cannot be
            cancelled: the processes that go on would wait for the one that stopped.
        tensorboard: a folder; what remains is also written there, as scalars for TensorBoard.
        clock: seconds since some moment.
        options: of `Indicator`: batch_size, every, schedule, validation_samples, price_per_hour,
            start, noise, window, seed.

    Raises:
        ValueError: no length, or a value outside of its range.
        ImportError: the extra ``serve`` or ``tensorboard`` is needed and not installed.
    """
    if isinstance(run, Forecast):
        forecast, until = run, run.until if until is None else until
        run = int(run.trajectory.steps[-1])
    items: Iterable[Any] = []
    if isinstance(run, int):
        items, max_steps = range(options.get("start", 0) + 1, run + 1), max_steps or run
    else:
        items = run
    if max_steps is None:
        if not isinstance(items, Sized):
            msg = "max_steps: got None for a loop without a length; expected a number of steps"
            raise ValueError(msg)
        max_steps = len(items)
    if extra is not None and options.get("validation_samples") is None:
        msg = "validation_samples: got None; expected how many there are, as extra is given"
        raise ValueError(msg)
    rule = parse(until) if isinstance(until, str) else until
    indicator = Indicator(rule, max_steps, forecast=forecast, clock=clock, **options)
    console = console or Console(stderr=True)
    views: list[View] = [] if quiet else [Display(console, title)]
    if tensorboard is not None:
        require("tensorboard", "tensorboardX")
        from ntkpredict.progress.scalars import Scalars

        views.append(Scalars(tensorboard))
    cancel = Cancel(checkpoint, agree)
    cancel.possible = agree is not None or not _several()
    page = open_page(serve, title, cancel)
    if page is not None:
        views.append(page)
        if not quiet:
            console.print(f"{title}: {page.url}", highlight=False, soft_wrap=True)
    return Tracker(
        indicator,
        items,
        views=views,
        cancel=cancel,
        url=None if page is None else page.url,
        extra=extra,
        points=ExtraPoints(budget),
        clock=clock,
    )


def _several() -> bool:
    """Whether JAX trains in several processes; without starting it where nobody has."""
    return jax.distributed.is_initialized() and jax.process_count() > 1
