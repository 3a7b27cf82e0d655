"""The indicator for the Hugging Face `Trainer`.

stop = transformers.EarlyStoppingCallback(early_stopping_patience=3)
Trainer(..., callbacks=[stop, ntkpredict.progress.huggingface.Progress(stop)])
"""

from __future__ import annotations

from typing import Any

from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ntkpredict.counter import HuggingFaceCounter
from ntkpredict.progress.following import Following
from ntkpredict.progress.tracker import Tracker
from ntkpredict.stopping import Watch


class Progress(TrainerCallback):
    """Follows `train`; a run that is resumed goes on with the values in the Trainer's log.

    Args:
        early_stopping: the run's own callback; to the last step where None.
        options: of `ntkpredict.track`, such as forecast. Cancel makes the Trainer save and stop.
    """

    def __init__(
        self,
        early_stopping: EarlyStoppingCallback | None = None,
        **options: Any,
    ) -> None:
        self._early_stopping = early_stopping
        self._following = Following(options)

    @property
    def tracker(self) -> Tracker:
        """Knows what remains."""
        return self._following.tracker

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        scheduler: Any = kwargs.get("lr_scheduler")

        def setting() -> tuple[int | None, Watch | None, dict[str, Any]]:
            batch_size = args.train_batch_size * args.gradient_accumulation_steps
            options: dict[str, Any] = {"batch_size": batch_size * args.world_size}
            if hasattr(scheduler, "lr_lambdas"):
                options["schedule"] = scheduler.lr_lambdas[0]
            if args.eval_strategy == "steps":
                options["every"] = state.eval_steps
            return state.max_steps, self._watch(args), options

        self._following.begin(setting, shown=state.is_world_process_zero, processes=args.world_size)
        if state.global_step:
            seen: dict[str, list[tuple[int, float, None]]] = {}
            for row in state.log_history:
                for name, value in row.items():
                    seen.setdefault(name, []).append((row["step"], value, None))
            known: dict[str, Any] = {"step": state.global_step, "values": seen}
            if self._early_stopping is not None:  # its counter starts anew, but not the best metric
                known["waited"] = self._early_stopping.early_stopping_patience_counter
            self.tracker.restore(known)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.tracker.lap("data")

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self.tracker.advance()
        if self.tracker.cancelled:
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, *args: Any, metrics: dict[str, Any], **kwargs: Any) -> None:
        self.tracker.lap("validation")
        self.tracker.report(**metrics)

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self.tracker.lap("checkpoint")

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.tracker.close()

    def _watch(self, args: TrainingArguments) -> Watch | None:
        stop = self._early_stopping
        if stop is None or args.metric_for_best_model is None:
            return None
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        counter = HuggingFaceCounter(
            stop.early_stopping_patience,
            stop.early_stopping_threshold or 0.0,
            "max" if args.greater_is_better else "min",
        )
        return Watch(counter, name)
