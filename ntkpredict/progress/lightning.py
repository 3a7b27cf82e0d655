"""The indicator for the Lightning `Trainer`, whose early stopping it finds itself.

Trainer(callbacks=[EarlyStopping("val_loss"), ntkpredict.progress.lightning.Progress()])
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ntkpredict.counter import LightningCounter
from ntkpredict.progress.following import Following
from ntkpredict.progress.tracker import Tracker
from ntkpredict.stopping import Watch


class Progress(Callback):
    """Follows `fit`, a step a batch; its state is in Lightning's checkpoints.

    Args:
        options: of `ntkpredict.track`, such as forecast; max_steps, in batches, is needed for data
            without a length. Cancel sets the Trainer's `should_stop`; without a `checkpoint` of
            yours, and unless Lightning's checkpoints are off, it writes ``cancelled.ckpt`` before.
    """

    def __init__(self, **options: Any) -> None:
        self._following = Following(options)
        self._state: dict[str, Any] | None = None
        self._at_epoch_end = False

    @property
    def tracker(self) -> Tracker:
        """Knows what remains."""
        return self._following.tracker

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._following.begin(
            lambda: self._setting(trainer),
            shown=trainer.is_global_zero,
            processes=trainer.world_size,
        )
        if self._state is not None:
            self.tracker.restore(self._state)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch:
            self.tracker.lap("checkpoint")  # what other callbacks did at the end of the epoch

    def on_train_batch_start(self, *args: Any) -> None:
        self.tracker.lap("data")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.tracker.advance()
        if self.tracker.cancelled:
            trainer.should_stop = True

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
        options: dict[str, Any] = {}
        if isinstance(trainer.checkpoint_callback, ModelCheckpoint):
            folder = trainer.checkpoint_callback.dirpath or trainer.default_root_dir
            options["checkpoint"] = partial(trainer.save_checkpoint, Path(folder, "cancelled.ckpt"))
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
