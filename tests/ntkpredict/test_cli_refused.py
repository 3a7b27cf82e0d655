"""What the command says where it cannot go on."""

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict import cli

from . import problems
from .conftest import assert_one_line

MLP = f"{problems.__name__}:mlp"
LINEAR = f"{problems.__name__}:linear"


BAD_ARGUMENTS = {
    "negative lr": (["--lr", "-0.1"], "lr: got -0.1; expected a number greater than 0"),
    "lr that is no number": (["--lr", "nan"], "lr: got nan"),
    "unknown optimizer": (["--optimizer", "lion"], "optimizer: got 'lion'; expected 'sgd' or"),
    "momentum": (["--momentum", "1"], "momentum: got 1.0; expected 0 <= momentum < 1"),
    "weight decay": (["--weight-decay", "-1"], "weight_decay: got -1.0"),
    "no budget": (["--max-steps", "0"], "max_steps: got 0"),
    "seed": (["--seed", "-1"], "seed: got -1"),
    "large batch": (["--batch-size", "49"], "batch_size: got 49; expected 1..48"),
    "no rule": (["--until", "soon"], "until: got 'soon'; expected "),
    "huge number of steps": (["--until", "steps>=1e999"], "until: got 'steps>=1e999'"),
    "met before training": (["--until", "loss<=100"], "target: the train loss starts at "),
    "unknown data": (["--data", "csv:x"], "data: got 'csv:x'; expected 'digits'"),
    "unknown tfds": (["--data", "tfds:no_such_set"], "data: 'tfds:no_such_set' cannot be prepared"),
    "missing file": (["--data", "npz:none.npz"], "data: 'none.npz' cannot be read as a NumPy arch"),
    "no factory": (["--network", "somewhere"], "network: got 'somewhere'; expected MODULE:FACTORY"),
    "no module": (["--network", "no_such_module:f"], "network: 'no_such_module:f' cannot be impor"),
    "no function": (["--network", "json:f"], "network: 'json:f' cannot be imported"),
    "no network": (["--network", "os:getcwd"], "network: 'os:getcwd' returned str; expected a Net"),
    "a constant": (["--network", "sys:maxsize"], "network: 'sys:maxsize' returned int; expected a"),
    "save in a folder that is not there": (["--save", "no/f.json"], "save: 'no/f.json' cannot be "),
    "save over a folder": (["--save", "."], "save: '.' cannot be written"),
    "save below a file": (["--save", "points.npz/f.json"], "save: 'points.npz/f.json' cannot be w"),
}


class TestImpossible:
    """One line, exit code 1, and nothing else."""

    @pytest.mark.parametrize("kind", ["predict", "train"])
    @pytest.mark.parametrize(
        ("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys()
    )
    def test_arguments(self, command, task, kind, arguments, message):
        assert_one_line(command(kind, *task, *arguments), message)

    @pytest.mark.parametrize("kind", ["predict", "train"])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_inputs_that_are_not_finite(self, command, task, archive, kind, value):
        inputs = problems.data().train[0].copy()
        inputs[7, 2] = value
        source = archive(x_train=inputs)
        assert_one_line(
            command(kind, *task, "--data", source),
            "train: NaN or infinite inputs in 1 samples, the first is number 7",
        )

    @pytest.mark.parametrize("kind", ["predict", "train"])
    @pytest.mark.parametrize("split", ["y_train", "y_validation"])
    def test_labels_out_of_range(self, command, task, archive, kind, split):
        count = {"y_train": 48, "y_validation": 24}[split]
        source = archive(**{split: np.full(count, 3)})
        assert_one_line(command(kind, *task, "--data", source), "labels: got 3; expected 0..2")

    @pytest.mark.parametrize("kind", ["predict", "train"])
    def test_inputs_of_the_wrong_shape(self, command, task, archive, kind):
        source = archive(x_train=np.zeros((48, 4)), x_validation=np.zeros((24, 4)))
        assert_one_line(
            command(kind, *task, "--data", source), "inputs: linear does not accept shape (4, 4)"
        )

    def test_labels_that_are_text(self, command, task, archive):
        source = archive(y_train=np.array(["a"] * 48))
        assert_one_line(command("train", *task, "--data", source), "labels: got shape (48,) of <U1")

    def test_a_solver_that_is_wrong(self, command, task):
        assert_one_line(
            command("predict", *task, "--solver", "spectral"),
            "solver: 'spectral' needs a linear tangent model; use mode='linear', or solver='replay",
        )
        assert_one_line(
            command("predict", *task, "--solver", "spectral", "--mode", "linear"),
            "solver: 'spectral' needs loss='squared_error'; use solver='replay'",
        )

    @pytest.mark.parametrize("text", ["much", "", "%", "5%%", "5%3", "%5"])
    def test_a_budget_that_is_no_share(self, command, task, text):
        assert_one_line(
            command("predict", *task, "--budget", text),
            f"budget: got {text!r}; expected a share of the run such as 5% or 0.05",
        )

    @pytest.mark.parametrize(
        ("text", "value"), [("-1", -1.0), ("-5%", -0.05), ("nan", np.nan), ("inf%", np.inf)]
    )
    def test_a_budget_out_of_range(self, command, task, text, value):
        assert_one_line(
            command("predict", *task, f"--budget={text}"),
            f"budget: got {value}; expected a share of the run, in 0..1",
        )

    def test_a_damaged_checkpoint(self, command, task, tmp_path):
        arguments = (*task, "--checkpoints", tmp_path / "run", "--checkpoint-every", "2")
        assert command("train", *arguments).code == 0
        newest = max((tmp_path / "run").iterdir(), key=lambda path: int(path.name))
        for path in newest.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:20])
        before = sorted((tmp_path / "run").rglob("*"))
        outcome = command("train", *arguments)
        assert outcome.code == 1
        last = outcome.err.splitlines()[-1]
        assert last.startswith(f"ntkpredict: checkpoints: '{newest}' cannot be read (")
        assert "Traceback" not in outcome.err
        assert sorted((tmp_path / "run").rglob("*")) == before

    def test_checkpoints_in_a_file(self, command, task, tmp_path):
        (tmp_path / "file").write_text("")
        assert_one_line(
            command("train", *task, "--checkpoints", tmp_path / "file"),
            f"checkpoints: '{tmp_path / 'file'}' cannot be made (",
        )

    def test_a_suite_that_is_not_there(self, command):
        assert_one_line(
            command("validate", "--suite", "none"), "suite: 'none/runs' is missing or empty; expec"
        )

    def test_a_suite_with_a_damaged_file(self, command, suite):
        path = suite / "forecasts" / "ours" / "wild.json"
        path.write_text(path.read_text()[:50])
        assert_one_line(
            command("validate", "--suite", suite), f"suite: '{path}' cannot be read (JSONDecodeEr"
        )

    def test_scores_that_cannot_be_saved(self, command, suite):
        outcome = command("validate", "--suite", suite, "--save", "no/s.json")
        assert_one_line(outcome, "save: 'no/s.json' cannot be written")

    def test_a_disk_that_is_full(self, command, task, monkeypatch):
        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("pathlib.Path.write_text", full)
        assert_one_line(
            command("train", *task, "--save", "r.json"), "[Errno 28] No space left on device"
        )

    def test_the_place_to_save_is_looked_at_before_the_work(self, command, task, monkeypatch):
        monkeypatch.setattr(ntp, "train", lambda *_, **__: pytest.fail("trained first"))
        assert_one_line(command("train", *task, "--save", "no/r.json"), "save: 'no/r.json'")

    def test_an_interrupt(self, command, task, monkeypatch):
        def interrupt(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(ntp, "train", interrupt)
        outcome = command("train", *task)
        assert outcome.code == 130
        assert "Traceback" not in outcome.err


class TestWrongUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("forecast",),
            ("predict", "--no-such-option"),
            ("predict", "--lr", "fast"),
            ("predict", "--max-steps", "1.5"),
            ("train", "--schedule", "linear"),
            ("train", "--loss", "hinge"),
            ("train", "--samples", "3"),
            ("predict", "--solver", "euler"),
            ("train", "--solver", "sde"),
            ("train", "--suite", "."),
            ("train", "--budget", "5%"),
            ("predict", "--suite", "."),
        ],
    )
    def test_exits_with_2(self, command, arguments):
        outcome = command(*arguments)
        assert outcome.code == 2
        assert outcome.out == "" or not arguments
        assert "Traceback" not in outcome.err

    @pytest.mark.parametrize("arguments", [("--help",), ("predict", "--help"), ("train", "--help")])
    def test_help(self, command, arguments):
        outcome = command(*arguments)
        assert outcome.code == 0
        assert outcome.err == ""
        assert "usage: ntkpredict" in outcome.out

    def test_every_option_is_explained(self):
        for kind in (cli.Predict, cli.Compare, cli.Validate, cli.Train, cli.Recall):
            assert kind.__doc__
        for kind in ("predict", "compare", "validate", "train", "history"):
            assert kind in cli.__doc__
