"""Files written by the frameworks themselves, in small training runs."""

import json
import shutil

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.record import to_trajectory

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

EPOCHS, BATCHES = 5, 4


@pytest.fixture(scope="module")
def points():
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 4)).astype(np.float32)
    return x, x @ np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)


@pytest.fixture(scope="module")
def keras_run(points, tmp_path_factory):
    """A folder with the history as JSON and the CSV log."""
    import keras

    folder = tmp_path_factory.mktemp("keras")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse", metrics=["mae"])
    done = model.fit(
        *points,
        validation_data=points,
        batch_size=16,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[keras.callbacks.CSVLogger(str(folder / "log.csv"))],
    )
    (folder / "history.json").write_text(json.dumps(done.history))
    return folder, done.history


@pytest.fixture(scope="module")
def huggingface_run(points, tmp_path_factory):
    """The folder of a Trainer, with its state and its event files."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def forward(self, x, labels):
            outputs = self.layer(x)
            return {"loss": ((outputs - labels) ** 2).mean(), "logits": outputs}

    folder = tmp_path_factory.mktemp("huggingface")
    rows = [{"x": x, "labels": y} for x, y in zip(*points, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=16,
        learning_rate=0.1,
        num_train_epochs=EPOCHS,
        eval_strategy="epoch",
        logging_steps=2,
        save_strategy="no",
        report_to="tensorboard",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        dataloader_pin_memory=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "events"))
        trainer = Trainer(Line(), arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train()
    trainer.save_state()
    return folder, trainer.state.log_history


@pytest.fixture(scope="module")
def lightning_run(points, tmp_path_factory):
    """A folder with csv/metrics.csv and event files in tensorboard/."""
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    class Line(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, index):
            loss = ((self.layer(batch[0]) - batch[1]) ** 2).mean()
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch, index):
            loss = ((self.layer(batch[0]) - batch[1]) ** 2).mean()
            self.log_dict({"val_loss": loss, "val_acc": 1 / (1 + loss)})

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    folder = tmp_path_factory.mktemp("lightning")
    rows = torch.utils.data.TensorDataset(*map(torch.tensor, points))
    loader = torch.utils.data.DataLoader(rows, batch_size=16)
    loggers = [
        CSVLogger(folder, "csv", ""),
        TensorBoardLogger(folder, "tensorboard", ""),
    ]
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        callbacks=[pl.callbacks.LearningRateMonitor()],
        logger=loggers,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Line(), loader, loader)
    return folder, float(trainer.callback_metrics["val_loss"])


@pytest.fixture
def kept(tmp_path):
    """Import a path, twice; the records that this made."""

    def run(path, **options):
        history = ntp.History(tmp_path / "history.sqlite")
        numbers = ntp.import_runs(path, history, **options)
        assert ntp.import_runs(path, history, **options) == []
        records = history.records(tuple(numbers)) if numbers else []
        assert all(record.kind == "run" for record in records)
        return records

    return run


def curves(record):
    return to_trajectory(record.result["trajectory"])


@pytest.mark.parametrize("name", ["history.json", "log.csv"])
def test_keras(name, keras_run, kept):
    folder, history = keras_run
    (record,) = kept(folder / name)
    assert record.task.network == "keras run"
    assert record.result["unit"] == "epochs"
    assert record.result["source"]["format"] == "keras"
    found = curves(record)
    assert found.steps.tolist() == [1, 2, 3, 4, 5]
    assert found.train.loss[0] == pytest.approx(history["loss"])
    assert found.validation.loss[0] == pytest.approx(history["val_loss"])
    assert np.isnan(found.train.accuracy).all()
    mae = [value for _, value in record.result["metrics"]["val_mae"]]
    assert mae == pytest.approx(history["val_mae"])


def test_keras_counted_in_steps(keras_run, kept):
    (record,) = kept(keras_run[0] / "log.csv", steps_per_epoch=BATCHES)
    assert curves(record).steps.tolist() == [4, 8, 12, 16, 20]
    assert (record.result["unit"], record.result["trained_steps"]) == ("steps", 20)


def test_keras_with_rare_validation(tmp_path, kept):
    path = tmp_path / "history.json"
    path.write_text(json.dumps({"loss": [4.0, 3.0, 2.0, 1.0], "val_accuracy": [0.5, 0.75]}))
    found = curves(kept(path)[0])
    assert found.train.loss[0].tolist() == [4.0, 3.0, 2.0, 1.0]
    assert found.validation.accuracy[0, [1, 3]].tolist() == [0.5, 0.75]
    assert np.isnan(found.validation.accuracy[0, [0, 2]]).all()


def test_huggingface(huggingface_run, kept):
    folder, log = huggingface_run
    (record,) = kept(folder / "trainer_state.json")
    found = curves(record)
    assert found.steps.tolist() == list(range(2, 21, 2))
    told = {row["step"]: row["eval_loss"] for row in log if "eval_loss" in row}
    assert sorted(told) == [4, 8, 12, 16, 20]
    assert found.validation.loss[0, 1::2].tolist() == list(told.values())
    assert np.isfinite(found.train.loss).all()
    result = record.result
    assert (result["trained_steps"], result["batch_size"]) == (20, 16)
    assert 0.08 < result["learning_rate"] <= 0.1
    assert result["seconds"] > 0
    assert "grad_norm" in result["metrics"]
    assert "batch size 16" in record.task.plan


def test_huggingface_by_its_event_files(huggingface_run, kept):
    folder, log = huggingface_run
    (record,) = kept(folder)
    assert record.result["source"]["format"] == "tensorboard"
    found = curves(record)
    told = {row["step"]: row["eval_loss"] for row in log if "eval_loss" in row}
    assert found.steps[np.isfinite(found.validation.loss[0])].tolist() == list(told)
    logged = found.validation.loss[0, np.isfinite(found.validation.loss[0])]
    assert logged == pytest.approx([*told.values()])
    assert 0.08 < record.result["learning_rate"] <= 0.1


@pytest.mark.parametrize("name", ["csv/metrics.csv", "tensorboard"])
def test_lightning(name, lightning_run, kept):
    folder, last = lightning_run
    (record,) = kept(folder / name)
    found = curves(record)
    assert found.steps.tolist() == [4, 8, 12, 16, 20]
    assert np.isfinite(found.train.loss).all()
    assert found.validation.loss[0, -1] == pytest.approx(last)
    mean_over_batches = pytest.approx(1 / (1 + last), rel=0.1)
    assert found.validation.accuracy[0, -1] == mean_over_batches
    assert record.result["trained_steps"] == 20
    assert record.result["learning_rate"] == pytest.approx(0.01)


def test_event_files_as_keras_writes_them(tmp_path, kept):
    from torch.utils.tensorboard import SummaryWriter

    for run, split in [("a", "train"), ("a", "validation"), ("b", "train")]:
        with SummaryWriter(tmp_path / run / split) as writer:
            for epoch in range(3):
                writer.add_scalar("epoch_loss", 1 / (epoch + 1), epoch, new_style=True)
                writer.add_scalar("epoch_learning_rate", 0.5, epoch, new_style=True)
    first, second = kept(tmp_path)
    found = curves(first)
    assert (first.result["unit"], first.result["learning_rate"]) == ("epochs", 0.5)
    assert found.steps.tolist() == [1, 2, 3]
    assert found.validation.loss[0] == pytest.approx([1, 1 / 2, 1 / 3])
    assert curves(second).validation is None
    assert second.task.data == f"{tmp_path.name}/b/train"
    events = next((tmp_path / "b" / "train").iterdir())
    alone = shutil.copy(events, tmp_path / events.name)
    assert kept(alone) == []  # the same run by another path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no log of a run"),
        ("{}", "no log of a run"),
        ("{", "cannot be read"),
        ('{"log_history": [1], "global_step": 3}', "cannot be read"),
        ('{"loss": ["high"]}', "no log of a run"),
        ("epoch,loss\nfirst,1\n", "cannot be read"),
        ("a,b\n1,2\n", "no log of a run"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_what_is_no_log(content, expected, tmp_path, kept):
    path = tmp_path / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=expected):
        kept(path)


def test_what_is_not_as_asked(keras_run, tmp_path, kept, refused):
    with refused("format: got 'lightning', but "):
        kept(keras_run[0] / "log.csv", format="lightning")
    with refused("steps_per_epoch: got 0"):
        kept(keras_run[0] / "log.csv", steps_per_epoch=0)
    with refused("path: "):
        kept(tmp_path)
    with pytest.raises(OSError, match="none"):
        kept(tmp_path / "none")
