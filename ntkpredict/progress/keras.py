"""The indicator for `fit` of Keras 3.

stop = keras.callbacks.EarlyStopping("val_loss", patience=5)
model.fit(..., callbacks=[stop, ntkpredict.progress.keras.Progress(stop)])
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras

from ntkpredict.counter import KerasCounter, Mode
from ntkpredict.progress.following import Following
from ntkpredict.progress.tracker import Tracker
from ntkpredict.stopping import Watch

_FALLING = re.compile("loss|error|mse|mae|mape|msle|entropy|hinge|poisson|divergence|huber|cosh")


class Progress(keras.callbacks.Callback):
    """Follows `fit`; a learning-rate schedule of the optimizer is taken into account.

    Args:
        early_stopping: the run's own callback; to the last epoch where None. In its mode
            ``"auto"`` metrics fall whose names say so, such as losses and errors.
        options: of `ntkpredict.track`, such as forecast and batch_size; max_steps is needed
            for data without a length. Batches are fetched within the steps. Cancel stops at the end
            of the batch, which ends the epoch with what other callbacks write then; what
            `checkpoint` writes comes before.
    """

    def __init__(
        self,
        early_stopping: keras.callbacks.EarlyStopping | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._early_stopping = early_stopping
        self._following = Following(options)
        self._fresh = True
        self._batch = -1

    @property
    def tracker(self) -> Tracker:
        """Knows what remains."""
        return self._following.tracker

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._fresh = True

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._batch = -1
        if self._fresh:
            self._following.begin(lambda: self._setting(epoch))
            self._fresh = False
        else:
            self.tracker.lap("checkpoint")  # what other callbacks did at the end of the epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.tracker.advance(batch - self._batch)  # several where steps_per_execution says so
        self._batch = batch
        if self.tracker.cancel.asked:
            model = self.model  # with JAX, its weights are brought up to date by this
            model.stop_training |= self.tracker.cancelled

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self.tracker.lap("validation")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.tracker.report(**(logs or {}))

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self.tracker.close()

    def _setting(self, epoch: int) -> tuple[int | None, Watch | None, dict[str, Any]]:
        steps = self.params.get("steps")
        if steps is None:
            return None, self._watch(), {}
        options: dict[str, Any] = {"every": steps, "start": epoch * steps}
        rate = getattr(self.model.optimizer, "_learning_rate", None)
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            options["schedule"] = lambda step: float(rate(step))
        return steps * self.params["epochs"], self._watch(), options

    def _watch(self) -> Watch | None:
        stop = self._early_stopping
        if stop is None:
            return None
        mode: Mode = "min" if _FALLING.search(stop.monitor) else "max"
        mode = stop.mode if stop.mode in ("min", "max") else mode
        delta = abs(float(stop.min_delta))
        counter = KerasCounter(stop.patience, delta, mode, stop.baseline, stop.start_from_epoch)
        return Watch(counter, stop.monitor)
