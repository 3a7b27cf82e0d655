import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict import cli
from ntkpredict.history import History, Task
from ntkpredict.options import Predict
from ntkpredict.progress.page import Page
from ntkpredict.validity import Signals, Validity

from . import problems
from .conftest import assert_one_line

MLP = f"{problems.__name__}:mlp"
LINEAR = f"{problems.__name__}:linear"


class TestEmbeddedDefault:
    """The installed command, without a network or data of one's own."""

    def test_train_with_checkpoints(self, console_script, tmp_path):
        arguments = (
            *("train", "--max-steps", 12, "--until", "steps>=12"),
            *("--checkpoints", tmp_path / "run", "--checkpoint-every", 6),
        )
        outcome = console_script(*arguments)
        assert outcome.code == 0
        assert outcome.err == ""
        assert "Stopping rule met after 12 steps; 12 steps in " in outcome.out
        assert outcome.out.splitlines()[0].startswith("┏")

        for path in (tmp_path / "run" / "12" / "state").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:20])
        outcome = console_script(*arguments, "--json")
        assert_one_line(outcome, f"checkpoints: '{tmp_path / 'run' / '12'}' cannot be read (")


class TestResults:
    def test_predict_as_json(self, command, task, tmp_path):
        outcome = command("predict", *task, "--json", "--save", tmp_path / "f.json")
        assert outcome.code == 0
        assert outcome.err == ""
        assert outcome.out.count("\n") == 1
        assert outcome.result == json.loads((tmp_path / "f.json").read_text())

        found = ntp.Forecast.load(tmp_path / "f.json")
        plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=40)
        until = ntp.parse("loss<=0.5x")
        expected = ntp.predict(problems.linear(), problems.data(), plan, until)
        for field in ("steps", "steps_interval", "network", "plan", "until", "mode", "samples"):
            assert getattr(found, field) == getattr(expected, field)
        assert found.solver == expected.solver == "replay"
        assert found.stability == expected.stability
        np.testing.assert_array_equal(found.trajectory.train.loss, expected.trajectory.train.loss)
        assert found.data == "points"

    def test_a_figure_that_is_not_there(self, forecast, refused):
        options = Predict(figure=(Path("no.png"),))
        with refused("figure: got 'no.png'; expected one of train-loss, validation-loss, "):
            cli._illustrate(forecast, options)

    def test_where_no_page_can_be_written(self, command, task, tmp_path, monkeypatch):
        page = tmp_path / "none" / "run.html"
        for option in ("--report", "--figure"):
            outcome = command("validate", *task, option, page)
            assert_one_line(outcome, f"{option[2:]}: '{page}' cannot be written; expected a file")
        monkeypatch.setitem(sys.modules, "plotly", None)
        outcome = command("predict", *task, "--report", tmp_path / "run.html")
        assert_one_line(outcome, "report: plotly missing; pip install 'ntkpredict[report]'")

    def test_predict_with_adamw(self, command, task):
        arguments = ("--network", MLP, "--optimizer", "adamw", "--lr", "0.01", "--json")
        outcome = command("predict", *task, *arguments)
        assert outcome.code == 0
        assert outcome.err == ""
        assert outcome.result["plan"] == "adamw, lr 0.01, batch size 8"
        assert outcome.result["solver"] == "replay"
        plan = ntp.Plan.adamw(0.01, weight_decay=0.0, batch_size=8, max_steps=40)
        run = ntp.train(problems.mlp(), problems.data(), plan, ntp.parse("loss<=0.5x"))
        assert outcome.result["steps"] == pytest.approx(run.steps, rel=0.25)

    def test_predict_for_people(self, command, task, tmp_path):
        page, figure = tmp_path / "run.html", tmp_path / "train-loss.svg"
        pictures = ("--report", page, "--figure", figure)
        outcome = command("predict", *task, "--network", MLP, "--mode", "linear", *pictures)
        assert outcome.code == 0
        assert outcome.err == ""
        assert outcome.out.startswith("Fine-tuning mlp on points: sgd, lr 0.05")
        assert "loss<=0.5x after about " in outcome.out
        assert "How far to trust it: " in outcome.out
        assert "after about" in page.read_text(encoding="utf-8")
        assert figure.read_text(encoding="utf-8").startswith("<?xml")

    def test_the_solver_can_be_chosen(self, command, task):
        linear = (*task, "--mode", "linear", "--lr", "0.005", "--loss", "squared_error")
        chosen = {
            solver: command("predict", *linear, "--solver", solver, "--json")
            for solver in ("auto", "replay", "sde", "spectral")
        }
        assert {outcome.code for outcome in chosen.values()} == {0}
        found = {solver: outcome.result["solver"] for solver, outcome in chosen.items()}
        assert found == {
            "auto": "spectral",
            "replay": "replay",
            "sde": "sde",
            "spectral": "spectral",
        }
        steps = [outcome.result["steps"] for outcome in chosen.values()]
        assert max(steps) < 1.05 * min(steps)

    def test_stability_is_shown(self, command, task):
        outcome = command("predict", *task)
        text = " ".join(outcome.out.split())  # lines are wrapped
        assert "The learning rate, 0.05, is below the largest stable one, about " in text
        assert "Noise mass 0." in text

    @pytest.mark.parametrize("solver", ["auto", "replay", "spectral"])
    def test_divergence_is_told_with_the_largest_stable_rate(self, command, task, solver):
        outcome = command(
            *("predict", *task, "--mode", "linear", "--loss", "squared_error", "--lr", "2"),
            *("--momentum", 0, "--batch-size", 48, "--solver", solver),
        )
        assert outcome.code == 0
        assert outcome.err == ""
        text = " ".join(outcome.out.split())  # lines are wrapped
        assert "No forecast: diverges: the loss ends above its start; lower the learning" in text
        assert "2 is 3.8 times the largest stable one, 0.533" in text
        assert "The learning rate, 2, is 3.8 times the largest stable one, about 0.53" in text

    def test_too_noisy_batches_are_told_to_grow(self, command, task):
        outcome = command(
            *("predict", *task, "--loss", "squared_error", "--lr", 0.4, "--momentum", 0),
            *("--batch-size", 1, "--until", "loss<=0.001x", "--max-steps", 200),
        )
        assert outcome.code == 0
        text = " ".join(outcome.out.split())
        assert "take larger batches: their noise mass is 1." in text
        assert "batches are too noisy" in text

    def test_a_target_out_of_reach_is_a_result(self, command, task):
        outcome = command("predict", *task, "--until", "loss<=1e-9", "--save", "f.json")
        assert outcome.code == 0
        assert "No forecast: not reached within 40 steps" in outcome.out
        assert ntp.Forecast.load("f.json").steps is None

    def test_a_budget_trains_first_steps(self, command, task):
        outcome = command("predict", *task, "--budget", "10%", "--save", "f.json")
        assert outcome.code == 0
        known = ntp.Forecast.load("f.json").trajectory.known
        text = " ".join(outcome.out.split())  # lines are wrapped
        assert known
        assert f"The first {known} steps, trained for real on a copy, went from" in text

    @pytest.mark.parametrize("kind", ["predict", "validate"])
    @pytest.mark.parametrize(
        ("text", "share"),
        [("5%", 0.05), ("0.05", 0.05), ("5 %", 0.05), ("2.5e-3", 0.0025), ("0", 0), ("100%", 1)],
    )
    def test_a_budget_is_a_share(self, command, task, monkeypatch, kind, text, share):
        seen = []

        def stop(*_, budget, **__):
            seen.append(budget)
            raise KeyboardInterrupt

        monkeypatch.setattr(ntp, kind, stop)
        assert command(kind, *task, "--budget", text).code == 130
        assert seen == [pytest.approx(share)]

    def test_compare_as_json(self, command, task, tmp_path):
        outcome = command(
            *("compare", *task, "--lr", "0.01:0.1:3"),
            *("--machine", "a:3.6USD/h", "--machine", "b:7.2USD/h:4x", "--by", "price"),
            *("--json", "--save", tmp_path / "ranking.json"),
        )
        assert outcome.code == 0
        read = ntp.Ranking.load(tmp_path / "ranking.json")
        assert json.loads(json.dumps(read.to_dict())) == outcome.result
        assert len(read.candidates) == 6
        assert {c.learning_rate for c in read.candidates} == {0.01, 0.03162, 0.1}
        assert read.best.machine.name == "b"
        assert read.best.price == min(c.value("price") for c in read.candidates)

    def test_compare_for_people(self, command, task, tmp_path):
        page = tmp_path / "run.html"
        options = ("--lr", "1e-4,0.02", "--within", "30steps", "--report", page)
        outcome = command("compare", *task, *options)
        assert outcome.code == 0
        assert "Least seconds to loss<=0.5x within 30steps: sgd, lr 0.02" in outcome.out
        assert "the best with a probability of" in outcome.out
        assert "plans compared" in page.read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--lr", "a"), "lr: got 'a'; expected such as"),
            (("--lr", "0:1:3"), "lr: got '0:1:3'; expected such as"),
            (("--batch-size", "8,x"), "batch-size: got 'x'; expected"),
            (("--optimizer", "sgd,x"), "optimizer: got 'x'; expected one of"),
            (("--within", "1"), "within: got '1'; expected"),
            (("--machine", "a:b"), "machine: got 'a:b'; expected"),
            (("--by", "price"), "machines: this machine has no price"),
        ],
    )
    def test_compare_of_what_cannot_be(self, command, task, arguments, message):
        outcome = command("compare", *task, *arguments)
        assert outcome.code == 1
        assert outcome.err.startswith(f"ntkpredict: {message}")

    def test_predict_goes_by_the_users_own_runs(self, command, task, tmp_path):
        """Eight of other networks, each of which took twice the steps of its forecast."""
        kept = ("--history", tmp_path / "history.sqlite", "--save", tmp_path / "told.json")
        history = History(kept[1])
        signals = Signals("growing", coordinate_wise=False, difference=0.0, margin=20.0)
        forecast = {
            "steps": 50.0,
            "validity": {"signals": vars(signals), "shift": 0.0},
            "cost": {"batch_seconds": [0.1, 0.1, 0.1]},
            "trajectory": {"known": 0},
        }
        run = {"steps": 100.0, "trained_steps": 100, "seconds": 20.0}
        for name in "abcdefgh":
            known = Task(name, name, "data", "d", "sgd", "loss<=0.1x", {}, {})
            history.add("forecast", name, known, forecast)
            history.add("run", name, known, run)
        outcome = command("predict", *task, *kept)
        assert outcome.code == 0, outcome.err
        said = " ".join(outcome.out.split())
        assert "Calibrated on 8 of your own runs." in said
        told = ntp.Forecast.load(kept[3])
        assert (told.validity.own_runs, told.cost.own_ratio) == (8, 2)
        simulated = np.median(ntp.parse(told.until).steps(told.trajectory))
        assert told.steps == pytest.approx(simulated * np.exp(told.validity.shift), rel=0.1)
        assert simulated < told.steps < told.steps_interval[1]
        shipped = Validity.of(told.validity.signals).clock
        assert (told.validity.clock >= shipped).mean() > 0.9

    def test_history_keeps_forecasts_and_runs(self, command, task, tmp_path):
        path = tmp_path / "history.sqlite"
        kept = ("--history", path)
        assert command("history", "list", "--json", *kept).out == ""
        assert command("validate", *task, *kept, "--json").code == 0
        assert command("train", *task, *kept, "--json").code == 0
        assert command("train", *task, "--history", "off", "--json").code == 0
        exported = command("history", "export", *kept).out.splitlines()
        forecast, run, trained = map(json.loads, exported)
        assert [r["kind"] for r in (forecast, run, trained)] == ["forecast", "run", "run"]
        assert forecast["session"] == run["session"] != trained["session"]
        assert forecast["task"] == run["task"] == trained["task"]
        assert forecast["result"]["until"] == "loss<=0.5x"
        assert run["result"]["steps"] == trained["result"]["steps"] > 0
        assert "linear on points: sgd," in command("history", "list", *kept).out
        assert command("history", "show", 2, *kept).result == run
        assert command("history", "forget", 1, *kept).out.startswith("forgot 1 records")
        for arguments, message in (
            (("show", 1), "ids: no records [1]"),
            (("forget",), "of: got none to forget"),
            (("import",), "of: got none to import; expected files"),
            (("show", "first"), "of: got 'first'; expected whole numbers"),
        ):
            outcome = command("history", *arguments, *kept)
            assert outcome.code == 1
            assert outcome.err.startswith(f"ntkpredict: {message}")
        assert command("history", "forget", "--all", *kept).out.startswith("forgot 2 records")
        assert command("history", "list", "--history", "off").code == 1

    def test_runs_of_other_programs_are_imported_once(self, command, tmp_path):
        log = tmp_path / "log.csv"
        log.write_text("epoch,loss,val_loss\n0,3.0,2.9\n1,2.0,2.5\n")
        kept = ("--history", tmp_path / "history.sqlite")
        arguments = ("history", "import", log, "--steps-per-epoch", 4, *kept)
        assert command(*arguments, "--json").result == [1]
        assert command(*arguments).out.startswith("added 0 runs")
        assert "keras run on log.csv: 8 steps" in command("history", "list", *kept).out
        assert command("history", "show", 1, *kept).result["result"]["trained_steps"] == 8
        wrong = command(*arguments, "--format", "lightning")
        assert wrong.code == 1
        assert wrong.err.startswith("ntkpredict: format: got 'lightning'")

    def test_a_history_that_cannot_be_written_is_a_warning(self, command, task, tmp_path):
        (tmp_path / "none").write_text("x" * 5000)
        with pytest.warns(UserWarning, match="not kept: history: "):
            outcome = command("train", *task, "--history", tmp_path / "none", "--json")
        assert outcome.code == 0
        assert outcome.result["steps"] > 0

    def test_train_as_json(self, command, task, tmp_path):
        outcome = command("train", *task, "--json", "--save", tmp_path / "r.json")
        assert outcome.code == 0
        assert outcome.err == ""
        assert outcome.result == json.loads((tmp_path / "r.json").read_text())
        plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=40)
        run = ntp.train(problems.linear(), problems.data(), plan, ntp.parse("loss<=0.5x"))
        assert outcome.result["steps"] == run.steps
        assert outcome.result["trajectory"] == run.to_dict()["trajectory"]

    def test_train_with_adamw(self, command, task):
        arguments = ("--optimizer", "adamw", "--lr", "0.01", "--schedule", "cosine")
        outcome = command("train", *task, *arguments, "--weight-decay", "0.1", "--seed", "3")
        assert outcome.code == 0
        assert outcome.out.startswith("┏")

    def test_a_diverging_run_is_still_json(self, command, task):
        arguments = ("--lr", "1e8", "--loss", "squared_error", "--json")
        outcome = command("train", *task, *arguments)
        assert outcome.code == 0
        assert None in outcome.result["trajectory"]["train"]["loss"][0]

    def test_train_can_be_served_and_cancelled(self, command, task, tmp_path, monkeypatch):
        class Eager(Page):
            def __init__(self, title, cancel, port=0):
                super().__init__(title, cancel, port)
                cancel.ask()

        monkeypatch.setattr("ntkpredict.progress.page.Page", Eager)
        kept = ("--history", tmp_path / "h.sqlite", "--json")
        outcome = command("train", *task, "--serve", "--checkpoints", tmp_path / "c", *kept)
        assert outcome.code == 0
        assert outcome.result["trained_steps"] == 0
        assert "linear on points: http://127.0.0.1:" in outcome.err
        assert "cancelled after 0 steps" in outcome.err
        assert command("history", "list", *kept).out == ""
        assert [path.name for path in (tmp_path / "c").iterdir()] == ["0"]

    def test_train_goes_on_from_checkpoints(self, command, task, tmp_path):
        arguments = (*task, "--until", "steps>=40", "--checkpoints", tmp_path / "run", "--json")
        whole = command("train", *arguments, "--checkpoint-every", "20").result
        again = command("train", *arguments, "--checkpoint-every", "20")
        assert again.err == ""
        assert again.result["trajectory"] == whole["trajectory"]

    def test_validate_for_people(self, command, task):
        outcome = command("validate", *task)
        assert outcome.code == 0
        assert outcome.err == ""
        assert "loss<=0.7x" in outcome.out
        assert "Forecasting took " in outcome.out

    def test_a_suite_is_scored_without_training(self, command, suite, tmp_path, monkeypatch):
        monkeypatch.setattr(ntp, "train", lambda *_, **__: pytest.fail("trained"))
        outcome = command("validate", "--suite", suite)
        assert outcome.code == 0
        assert outcome.err == ""
        title, headings, near, footnote, _ = outcome.out.splitlines()
        assert title.strip() == "ours, development"
        assert headings.split()[:4] == ["count", "missed", "invented", "error"]
        cells = ["2", "50%", "-", "∞", "∞", "∞", "50%", "100%", "2x", "100%", "3x"]
        assert near.split() == ["near", *cells]
        assert footnote == "11 targets not answered; 1 runs diverged, 0 foretold."

        outcome = command("validate", "--suite", suite, "--json", "--save", "s.json")
        assert outcome.code == 0
        assert outcome.err == ""
        assert outcome.result == json.loads((tmp_path / "s.json").read_text())
        scores = outcome.result["scores"]
        assert scores[0]["group"] == {"split": "development"}
        assert scores[0]["missed"] == 0.5
        assert scores[0]["error_median"] is None  # infinite

    def test_a_network_from_the_current_folder(self, command, task, tmp_path, archive):
        (tmp_path / "own_network.py").write_text(
            f"from {problems.__name__} import linear as make\n"
        )
        outcome = command("train", *task, "--network", "own_network:make", "--json")
        assert outcome.code == 0


def test_nothing_is_written_to_the_home_folder(command, task, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert command("train", *task).code == 0
    assert os.listdir(tmp_path / "home") == []
