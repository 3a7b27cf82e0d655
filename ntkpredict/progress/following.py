"""What the callbacks of all frameworks share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from rich.console import Console

from ntkpredict.forecast import Forecast
from ntkpredict.progress.track import Tracker, track
from ntkpredict.stopping import Watch


class Following:
    """Makes a tracker when training begins; whatever goes wrong is one warning.

    Args:
        forecast: made before launch.
        console: see `track`.
        quiet: show nothing.
        title: of the run.
        options: of `Indicator`; they take precedence over what the framework says.
    """

    def __init__(
        self,
        forecast: Forecast | None,
        console: Console | None,
        title: str,
        options: dict[str, Any],
        *,
        quiet: bool,
    ) -> None:
        self.tracker: Tracker = Tracker(None)
        self._shown = {"forecast": forecast, "console": console, "title": title}
        self._options = options
        self._quiet = quiet

    def begin(self, setting: Callable[[], tuple[int | None, Watch | None, dict[str, Any]]]) -> None:
        """Start following.

        Args:
            setting: the number of steps, what the framework's rule looks at, and options.
        """
        try:
            steps, watch, found = setting()
            options = {"max_steps": steps, **found, **self._options, **self._shown}
            options["quiet"] = self._quiet or found.get("quiet", False)
            self.tracker = track(iter(()), () if watch is None else (watch,), **options)
        except Exception as error:
            self.tracker = Tracker(None)
            warnings.warn(
                f"the progress indicator cannot start, training goes on: {error!r}",
                RuntimeWarning,
                stacklevel=3,
            )
