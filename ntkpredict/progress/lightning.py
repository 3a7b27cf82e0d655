"""The indicator for the Lightning `Trainer`, whose early stopping it finds itself.

Trainer(callbacks=[EarlyStopping("val_loss"), ntkpredict.progress.lightning.Progress()])
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from ntkpredict.counter import LightningCounter
from ntkpredict.forecast import Forecast
from ntkpredict.progress.following import Following
from ntkpredict.progress.track import Tracker
from ntkpredict.stopping import Watch


class Progress(Callback):
    """Follows `fit`, a step a batch; its state is in Lightning's checkpoints.

    Args:
        forecast: of this run, made before launch.
        console: see `ntkpredict.track`.
        quiet: show nothing.
        title: of the run.
        options: of `ntkpredict.progress.Indicator`; max_steps, in batches, is needed for data
            without a length.
    """

    def __init__(
        self,
        *,
        forecast: Forecast | None = None,
        console: Console | None = None,
        quiet: bool = False,
        title: str = "Training",
        **options: Any,
    ) -> None:
        self._following = Following(forecast, console, title, options, quiet=quiet)
        self._state: dict[str, Any] | None = None
        self._at_epoch_end = False

    @property
    def tracker(self) -> Tracker:
        """Knows what remains."""
        return self._following.tracker

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._following.begin(lambda: self._setting(trainer))
        if self._state is not None:
            self.tracker.restore(self._state)

    def on_train_batch_end(self, *args: Any) -> None:
        self.tracker.advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.tracker.lap("validation")
        if not self._at_epoch_end:
            self.tracker.report(**trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._at_epoch_end:
            self.tracker.report(**trainer.callback_metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tracker.close()

    def on_exception(self, *args: Any) -> None:
        self.tracker.close()

    def state_dict(self) -> dict[str, Any]:
        return self.tracker.state() or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict or None

    def _setting(self, trainer: Trainer) -> tuple[int | None, Watch | None, dict[str, Any]]:
        batches, epochs = trainer.num_training_batches, trainer.max_epochs or -1
        limits = []
        if epochs > 0 and batches != float("inf"):
            limits.append(int(batches) * epochs)
        if trainer.max_steps > 0:
            limits.append(trainer.max_steps * trainer.accumulate_grad_batches)
        options: dict[str, Any] = {"quiet": not trainer.is_global_zero}
        batch_size = getattr(trainer.train_dataloader, "batch_size", None)
        if batch_size is not None:
            options["batch_size"] = batch_size
        return min(limits, default=None), self._watch(trainer), options

    def _watch(self, trainer: Trainer) -> Watch | None:
        stop = trainer.early_stopping_callback
        if stop is None:
            return None
        self._at_epoch_end = bool(stop._check_on_train_epoch_end)
        counter = LightningCounter(
            stop.patience,
            stop.min_delta * (1 if stop.mode == "max" else -1),
            stop.mode,
            stop.check_finite,
            stop.stopping_threshold,
            stop.divergence_threshold,
        )
        return Watch(counter, stop.monitor)
