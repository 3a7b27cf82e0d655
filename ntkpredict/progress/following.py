"""What the callbacks of all frameworks share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ntkpredict.progress.serving import check_serve
from ntkpredict.progress.track import track
from ntkpredict.progress.tracker import Tracker
from ntkpredict.stopping import Watch


class Following:
    """Makes a tracker when training begins; whatever goes wrong is one warning.

    Args:
        options: of `track`; they take precedence over what the framework says.

    Raises:
        ValueError: no port to serve at.
        ImportError: the extra ``serve`` is needed and not installed.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.tracker: Tracker = Tracker(None)
        self._options = options
        check_serve(options.get("serve", False))

    def begin(
        self,
        setting: Callable[[], tuple[int | None, Watch | None, dict[str, Any]]],
        *,
        shown: bool = True,
        processes: int = 1,
    ) -> None:
        """Start following.

        Args:
            setting: the number of steps, what the framework's rule looks at, and options.
            shown: whether this is the process that shows it.
            processes: that train together; one alone can be cancelled.
        """
        try:
            steps, watch, found = setting()
            options = {"max_steps": steps, **found, **self._options}
            if not shown:
                options |= {"quiet": True, "serve": False, "tensorboard": None}
            self.tracker = track(iter(()), () if watch is None else (watch,), **options)
            self.tracker.cancel.possible = processes == 1
        except Exception as error:
            self.tracker = Tracker(None)
            warnings.warn(
                f"the progress indicator cannot start, training goes on: {error!r}",
                RuntimeWarning,
                stacklevel=3,
            )
