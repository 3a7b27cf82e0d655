"""The callbacks in real, small training runs of each framework."""

import io
import types

import numpy as np
import pytest
from rich.console import Console

import ntkpredict as ntp
from ntkpredict.progress.following import Following


@pytest.fixture(scope="module")
def data():
    """A line with noise: 64 samples to train on and 32 to validate."""
    random = np.random.default_rng(0)
    x = random.normal(size=(96, 4)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5, 0.0], np.float32) + 0.3 * random.normal(size=96)
    y = y.astype(np.float32)[:, None]
    return types.SimpleNamespace(x=x[:64], y=y[:64], validation_x=x[64:], validation_y=y[64:])


def console():
    return Console(file=io.StringIO())


class TestKeras:
    @pytest.fixture
    def fit(self, data):
        import keras

        def train(progress, *others, optimizer=None, epochs=60, steps_per_execution=1, **options):
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
            model.compile(
                optimizer or keras.optimizers.SGD(0.1),
                "mse",
                metrics=["mae"],
                steps_per_execution=steps_per_execution,
            )
            return model.fit(
                data.x,
                data.y,
                validation_data=(data.validation_x, data.validation_y),
                batch_size=16,
                epochs=epochs,
                verbose=0,
                callbacks=[*others, progress],
                **options,
            )

        return train

    def test_a_run_that_stops_early(self, fit):
        import keras

        from ntkpredict.progress.keras import Progress

        stop = keras.callbacks.EarlyStopping("val_loss", patience=3, min_delta=1e-3)
        seen, screen = [], console()
        progress = Progress(stop, console=screen, batch_size=16)

        class Watcher(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                seen.append(progress.tracker.estimate())

        epochs = len(fit(progress, stop, Watcher()).epoch)
        assert epochs < 60
        assert progress.tracker.stopped
        last = progress.tracker.estimate()
        assert (last.step, last.steps) == (4 * epochs, 4 * epochs)
        assert seen[3].steps_interval is not None
        done = progress.tracker.indicator.meter.done
        assert done.validation == epochs
        assert done.checkpoint == epochs - 1
        assert "Training: step" in screen.file.getvalue()

    def test_without_early_stopping_a_schedule_and_a_later_start(self, fit):
        import keras

        from ntkpredict.progress.keras import Progress

        decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
        progress = Progress(quiet=True)
        fit(progress, optimizer=keras.optimizers.SGD(decay), epochs=3, initial_epoch=1)
        indicator = progress.tracker.indicator
        assert (indicator.step, indicator.max_steps) == (12, 12)

    def test_several_steps_at_once(self, fit):
        from ntkpredict.progress.keras import Progress

        progress = Progress(quiet=True)
        fit(progress, epochs=2, steps_per_execution=2)
        assert progress.tracker.indicator.step == 8

    def test_what_cannot_start_is_a_warning(self, data, fit):
        from ntkpredict.progress.keras import Progress

        progress = Progress(quiet=True, batch_size=-1)
        with pytest.warns(RuntimeWarning, match="cannot start, training goes on"):
            assert len(fit(progress, epochs=2).epoch) == 2

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    def test_cancel_stops_within_the_epoch(self, fit, tmp_path):
        import keras

        from ntkpredict.progress.keras import Progress

        path = tmp_path / "cancelled.keras"
        progress = Progress(quiet=True, serve=True, checkpoint=lambda: progress.model.save(path))

        class Watcher(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                if progress.tracker.indicator.step == 5:
                    progress.tracker.cancel.ask()

        assert len(fit(progress, Watcher()).epoch) == 2
        assert progress.tracker.indicator.step == 6
        assert progress.tracker.url.startswith("http://127.0.0.1:")
        assert keras.models.load_model(path).count_params() == 5

    @pytest.mark.parametrize(
        ("monitor", "mode"),
        [("val_loss", "min"), ("mae", "min"), ("val_accuracy", "max"), ("val_auc", "max")],
    )
    def test_the_mode_from_the_name(self, monitor, mode):
        import keras

        from ntkpredict.progress.keras import Progress

        stop = keras.callbacks.EarlyStopping(monitor, min_delta=0.1, baseline=0.5)
        counter = Progress(stop)._watch().counter
        assert (counter.mode, counter.min_delta, counter.baseline) == (mode, 0.1, 0.5)


class TestHuggingFace:
    @pytest.fixture
    def train(self, data, tmp_path):
        import torch
        from transformers import Trainer, TrainingArguments

        class Line(torch.nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.layer = torch.nn.Linear(4, 1)

            def forward(self, x, labels):
                outputs = self.layer(x)
                return {"loss": ((outputs - labels) ** 2).mean(), "logits": outputs}

        def rows(x, y):
            return [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]

        def run(callbacks, resume=None, **options):
            arguments = TrainingArguments(
                output_dir=str(tmp_path),
                per_device_train_batch_size=16,
                learning_rate=0.1,
                eval_strategy="steps",
                save_strategy="steps",
                eval_steps=4,
                save_steps=4,
                load_best_model_at_end=True,
                metric_for_best_model="loss",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                seed=0,
                dataloader_pin_memory=False,
                **{"num_train_epochs": 60, **options},
            )
            trainer = Trainer(
                Line(),
                arguments,
                train_dataset=rows(data.x, data.y),
                eval_dataset=rows(data.validation_x, data.validation_y),
                callbacks=callbacks,
            )
            trainer.train(resume_from_checkpoint=resume)
            return trainer

        return run

    def test_a_run_that_stops_early(self, train):
        from transformers import EarlyStoppingCallback

        from ntkpredict.progress.huggingface import Progress

        stop = EarlyStoppingCallback(3, 1e-3)
        screen = console()
        progress = Progress(stop, console=screen)
        trainer = train([stop, progress])
        step = trainer.state.global_step
        assert step < 240
        assert progress.tracker.stopped
        estimate = progress.tracker.estimate()
        assert (estimate.step, estimate.steps) == (step, step)
        done = progress.tracker.indicator.meter.done
        assert (done.training, done.validation, done.checkpoint) == (step, step // 4, step // 4)
        assert "Training: step" in screen.file.getvalue()

    def test_a_run_that_is_resumed_goes_on_from_its_log(self, train, tmp_path):
        from transformers import EarlyStoppingCallback

        from ntkpredict.progress.huggingface import Progress

        stop = EarlyStoppingCallback(50, 9.0)
        train([stop, Progress(stop, quiet=True)], max_steps=12)
        again = EarlyStoppingCallback(50, 9.0)
        progress = Progress(again, quiet=True)
        train([again, progress], resume=str(tmp_path / "checkpoint-12"), max_steps=20)
        indicator = progress.tracker.indicator
        assert indicator.step == 20
        assert [value.step for value in indicator._watching[0].values] == [4, 8, 12, 16, 20]
        assert indicator.meter.done.training == 8
        assert indicator._watching[0].count.waited[0] == again.early_stopping_patience_counter == 2

    def test_cancel_saves_and_stops(self, train, tmp_path):
        from transformers import TrainerCallback

        from ntkpredict.progress.huggingface import Progress

        progress = Progress(quiet=True)

        class Watcher(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == 6:
                    progress.tracker.cancel.ask()

        trainer = train([progress, Watcher()])
        assert trainer.state.global_step == 7
        assert (tmp_path / "checkpoint-7" / "trainer_state.json").exists()


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
class TestLightning:
    @pytest.fixture
    def fit(self, data, tmp_path):
        import lightning.pytorch as pl
        import torch

        class Line(pl.LightningModule):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.layer = torch.nn.Linear(4, 1)

            def training_step(self, batch, index):
                x, y = batch
                loss = ((self.layer(x) - y) ** 2).mean()
                self.log("train_loss", loss, on_epoch=True)
                return loss

            def validation_step(self, batch, index):
                x, y = batch
                self.log("val_loss", ((self.layer(x) - y) ** 2).mean())

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)

        def loader(x, y):
            rows = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
            return torch.utils.data.DataLoader(rows, batch_size=16)

        def run(callbacks, resume=None, **options):
            trainer = pl.Trainer(
                **{"max_epochs": 60, **options},
                callbacks=callbacks,
                accelerator="cpu",
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=tmp_path,
            )
            trainer.fit(
                Line(),
                loader(data.x, data.y),
                loader(data.validation_x, data.validation_y),
                ckpt_path=resume,
            )
            return trainer

        return run

    @pytest.mark.parametrize(
        "options", [{}, {"val_check_interval": 2}], ids=["each epoch", "within"]
    )
    def test_a_run_that_stops_early(self, fit, options):
        from lightning.pytorch.callbacks import EarlyStopping

        from ntkpredict.progress.lightning import Progress

        screen = console()
        progress = Progress(console=screen)
        stop = EarlyStopping("val_loss", patience=3, min_delta=1e-3)
        trainer = fit([stop, progress], enable_checkpointing=False, **options)
        assert trainer.global_step < 240
        assert progress.tracker.stopped
        estimate = progress.tracker.estimate()
        assert (estimate.step, estimate.steps) == (trainer.global_step,) * 2
        assert progress.tracker.indicator.meter.done.validation > 3
        assert "Training: step" in screen.file.getvalue()

    def test_a_training_metric_and_accumulated_gradients(self, fit):
        from lightning.pytorch.callbacks import EarlyStopping

        from ntkpredict.progress.lightning import Progress

        progress = Progress(quiet=True)
        stop = EarlyStopping("train_loss", patience=50)
        fit(
            [stop, progress],
            max_epochs=-1,
            max_steps=6,
            accumulate_grad_batches=2,
            enable_checkpointing=False,
        )
        indicator = progress.tracker.indicator
        assert (indicator.step, indicator.max_steps) == (12, 12)
        assert len(indicator._watching[0].values) >= 2

    def test_its_state_is_in_the_checkpoint(self, fit, tmp_path):
        from lightning.pytorch.callbacks import EarlyStopping

        from ntkpredict.progress.lightning import Progress

        first = fit(
            [EarlyStopping("val_loss", patience=50), Progress(quiet=True)],
            max_epochs=3,
            enable_checkpointing=False,
        )
        path = tmp_path / "last.ckpt"
        first.save_checkpoint(path)
        progress = Progress(quiet=True)
        fit(
            [EarlyStopping("val_loss", patience=50), progress],
            resume=path,
            max_epochs=5,
            enable_checkpointing=False,
        )
        assert progress.tracker.indicator.step == 20
        assert len(progress.tracker.indicator._watching[0].values) == 5

    def test_cancel_saves_and_stops(self, fit, tmp_path):
        import lightning.pytorch as pl

        from ntkpredict.progress.lightning import Progress

        progress = Progress(quiet=True)

        class Watcher(pl.Callback):
            def on_train_batch_start(self, trainer, *args):
                if trainer.global_step == 6:
                    progress.tracker.cancel.ask()

        assert fit([progress, Watcher()]).global_step == 7
        resume = tmp_path / "checkpoints" / "cancelled.ckpt"
        assert fit([Progress(quiet=True)], resume=resume, max_epochs=3).global_step == 12


def test_a_run_of_several_processes_cannot_be_cancelled():
    following = Following({"quiet": True})
    following.begin(lambda: (9, None, {}), processes=2)
    following.tracker.cancel.ask()
    assert not following.tracker.stopped


def test_a_bad_port_is_told_before_training(refused):
    with refused("serve: got -1; expected"):
        Following({"serve": -1})


def test_forecasts_are_known_by_the_frameworks_names(forecast):
    for name in ("val_loss", "eval_loss", "validation_loss"):
        watch = ntp.progress.Watch(ntp.progress.KerasCounter(3), name)
        progress = ntp.track(2000, (watch,), forecast=forecast, every=20, quiet=True)
        assert progress.estimate().steps_interval is not None
