"""`ntp.track` around loops: counting, never failing, never slow."""

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import ntkpredict as ntp
from ntkpredict.progress.extra import ExtraPoints
from ntkpredict.progress.panel import panel, plot
from ntkpredict.progress.watching import Fan
from ntkpredict.progress.words import line, rows
from sde import Curve

UNTIL = ntp.EarlyStopping(5, every=20)


def play(progress, clock, run):
    """The loop as users write it; the step at which it ends."""
    step = 0
    for step in progress:
        clock.wait(run.step_seconds)
        if step % run.every == 0:
            with progress.validating():
                clock.wait(run.pass_seconds)
            progress.report(validation_loss=run.values[step // run.every - 1], lr=0.1)
        if progress.stopped:
            break
    return step


class TestTrack:
    def test_a_loop_stops_by_its_rule(self, clock, run):
        progress = ntp.track(2000, UNTIL, quiet=True, clock=clock)
        stop = play(progress, clock, run)
        curve = ntp.Trajectory(np.arange(0, 2001, 20), *_curves(run))
        assert stop == UNTIL.steps(curve)[0]

    def test_times_are_told_apart(self, clock, run):
        progress = ntp.track(2000, UNTIL, quiet=True, clock=clock)
        play(progress, clock, run)
        pace = progress.indicator.meter.pace
        assert pace.training == pytest.approx(run.step_seconds)
        assert pace.validation == pytest.approx(run.pass_seconds)

    def test_waiting_for_data_is_told_apart(self, clock):
        def batches():
            for i in range(100):
                clock.wait(0.3)
                yield i

        progress = ntp.track(batches(), max_steps=100, batch_size=6, quiet=True, clock=clock)
        for i in progress:
            clock.wait(0.2)
            progress.report(validation_loss=1.0)
            clock.wait(0.1)  # what follows a report is not data
            if i == 9:
                break
        estimate = progress.estimate()
        assert (estimate.pace.training, estimate.pace.data) == pytest.approx((0.3, 0.3), rel=0.05)
        assert estimate.seconds == pytest.approx(90 * 0.6, rel=0.05)
        assert estimate.units_per_second == pytest.approx(10, rel=0.05)
        assert estimate.shares["data"] == pytest.approx(0.5, rel=0.05)
        assert dict(rows(estimate))["Time goes to"] == "training 49%, waiting for data 51%"

    def test_a_forecast_brings_its_rule_and_its_budget(self, clock, forecast):
        progress = ntp.track(forecast, quiet=True, clock=clock)
        assert progress.indicator.max_steps == 2000
        assert progress.estimate().steps_interval is not None
        assert next(iter(progress)) == 1

    def test_any_iterable_with_a_length_or_a_maximum(self):
        assert list(ntp.track(["a", "b"], quiet=True)) == ["a", "b"]
        generator = (i for i in range(5))
        progress = ntp.track(generator, max_steps=5, quiet=True)
        assert list(progress) == [0, 1, 2, 3, 4]
        assert progress.indicator.step == 5

    def test_without_a_length(self, refused):
        with refused("max_steps: got None for a loop without a length"):
            ntp.track(iter([1]))

    def test_extra_values_need_to_know_of_how_many(self, refused):
        with refused("validation_samples: got None"):
            ntp.track(9, UNTIL, extra=lambda _: 1.0)

    def test_pause_and_checkpoints(self, clock):
        progress = ntp.track(100, quiet=True, clock=clock)
        for _ in range(4):
            clock.wait(0.5)
            progress.advance()
        with progress.checkpointing():
            clock.wait(2.0)
        progress.pause()
        clock.wait(1000)
        progress.resume()
        estimate = progress.estimate()
        assert estimate.seconds_passed == pytest.approx(4.0)
        assert estimate.seconds == pytest.approx(96 * 0.5 + 24 * 2.0)

    def test_goes_on_from_a_checkpoint(self, clock, run):
        first = ntp.track(300, UNTIL, quiet=True, clock=clock)
        play(first, clock, run)
        second = ntp.track(2000, UNTIL, start=300, quiet=True, clock=clock)
        second.restore(first.state())
        assert second.indicator.step == 300
        assert next(iter(second)) == 301

    def test_a_plain_optax_loop(self):
        schedule = optax.exponential_decay(0.3, 20, 0.8)
        optimizer = optax.sgd(schedule)
        random = np.random.default_rng(0)
        x = random.normal(size=(96, 5))
        y = x @ np.arange(5.0) + 0.5 * random.normal(size=96)

        def loss(w, x, y):
            return jnp.mean((x @ w - y) ** 2)

        @jax.jit
        def train_step(w, state, x, y):
            updates, state = optimizer.update(jax.grad(loss)(w, x, y), state)
            return optax.apply_updates(w, updates), state

        w = jnp.zeros(5)
        state = optimizer.init(w)
        progress = ntp.track(
            400,
            "val_loss_patience>=3@10",
            schedule=schedule,
            batch_size=32,
            validation_samples=32,
            quiet=True,
        )
        for step in progress:
            rows = random.integers(64, size=32)
            w, state = train_step(w, state, x[rows], y[rows])
            if step % 10 == 0:
                with progress.validating():
                    value = loss(w, x[64:], y[64:])
                progress.report(validation_loss=value)
                estimate = progress.estimate()
            if progress.stopped:
                break
        assert step < 400
        assert estimate.units_per_second > 0
        assert estimate.steps == step


def _curves(run):
    loss = np.insert(run.values, 0, 3.0)[None]
    rows = Curve(loss, np.zeros_like(loss))
    return rows, rows


class TestNeverInTheWay:
    def test_what_goes_wrong_becomes_one_warning(self, clock):
        progress = ntp.track(50, UNTIL, quiet=True, clock=clock)

        def loop():
            for _ in progress:
                progress.report(validation_loss="not a number")
                progress.lap("validation")
                turns.append(1)

        turns = []
        with pytest.warns(RuntimeWarning, match="failed and is off, training goes on") as caught:
            loop()
        assert len(turns) == 50
        assert len(caught) == 1
        assert progress.estimate() is None
        assert not progress.stopped

    def test_a_display_that_fails(self, clock):
        console = Console(file=io.StringIO())
        progress = ntp.track(50, UNTIL, console=console, clock=clock)
        console.print = None
        with pytest.warns(RuntimeWarning, match="training goes on") as caught:
            list(map(lambda _: clock.wait(100), progress))
        assert len(caught) == 1

    def test_the_loops_own_errors_come_through(self):
        with pytest.raises(ZeroDivisionError):
            [1 / (step - 3) for step in ntp.track(5, quiet=True)]

    def test_costs_less_than_a_hundredth_of_a_step_of_10_ms(self):
        module = "tests.ntkpredict.progress.overhead"
        root = Path(__file__).parents[3]
        child = subprocess.run(
            [sys.executable, "-m", module], capture_output=True, text=True, check=True, cwd=root
        )
        found = json.loads(child.stdout)
        assert max(found["shares"].values()) <= 0.01
        assert found["frameworks"] == []


class TestExtraPoints:
    def test_are_early_and_within_the_budget(self, clock, run):
        asked = []

        def extra(samples):
            clock.wait(samples * run.pass_seconds / 300)
            asked.append((progress.indicator.step, samples))
            return 1.0

        progress = ntp.track(
            2000, UNTIL, extra=extra, validation_samples=300, batch_size=8, quiet=True, clock=clock
        )
        play(progress, clock, run)
        steps, samples = np.array(asked).T
        assert len(steps) >= 3
        assert (steps % 20 != 0).all()
        assert steps.max() < 200
        assert samples.sum() * run.pass_seconds / 300 <= 0.01 * progress.estimate().seconds_passed

    def test_do_not_change_where_the_loop_stops(self, clock, run):
        plain = ntp.track(2000, UNTIL, quiet=True, clock=clock)
        extra = ntp.track(
            2000,
            UNTIL,
            extra=lambda _: 0.0,
            validation_samples=300,
            budget=0.2,
            quiet=True,
            clock=clock,
        )
        assert play(plain, clock, run) == play(extra, clock, run)
        assert len(extra.indicator._watching[0].values) > len(plain.indicator._watching[0].values)

    def test_without_a_budget_there_are_none(self):
        assert ExtraPoints(0.0).samples(1e6, 0.0, 1e-3, 300) == 0
        assert ExtraPoints().samples(10.0, 0.0, 1e-3, 300) == 100
        assert ExtraPoints().samples(1e6, 0.0, 1e-3, 300) == 300
        assert ExtraPoints().samples(1.0, 0.0, 1e-3, 300) == 0

    def test_get_fewer(self):
        points = ExtraPoints()
        gaps = [
            next(i for i in range(1, 101) if i == 100 or points.due(100 * j + i, 100 * j, 100.0))
            for j in range(8)
        ]
        assert gaps[0] == 20
        assert gaps == sorted(gaps)
        assert gaps[-1] == 100

    @pytest.mark.parametrize("budget", [-0.1, 1.0, np.nan])
    def test_bad_budget(self, refused, budget):
        with refused(f"budget: got {budget}; expected a share"):
            ExtraPoints(budget)


class TestDisplay:
    @pytest.fixture
    def shown(self, clock, run, forecast):
        """What a console shows of a run, in whole."""

        def show(terminal, steps):
            file = io.StringIO()
            console = Console(file=file, force_terminal=terminal, width=100)
            progress = ntp.track(
                forecast, console=console, clock=clock, batch_size=32, price_per_hour=3.0
            )
            for step, _ in zip(range(1, steps + 1), progress, strict=False):
                clock.wait(1.0)
                if step % 20 == 0:
                    progress.report(validation_loss=run.values[step // 20 - 1])
            progress.close()
            return file.getvalue()

        return show

    def test_a_line_a_minute_where_there_is_no_terminal(self, shown):
        lines = shown(terminal=False, steps=400).splitlines()
        assert 6 <= len(lines) <= 8
        assert lines[0].startswith("Training: step 60 of about ")
        assert ") remaining, " in lines[-1]

    def test_a_panel_in_a_terminal(self, shown):
        text = shown(terminal=True, steps=100)
        for part in ("Time passed", "Remaining", "U/s", "in money", "validation_loss", "•", "░"):
            assert part in text

    def test_scalars_for_tensorboard(self, clock, run, forecast, tmp_path):
        progress = ntp.track(forecast, tensorboard=tmp_path, quiet=True, clock=clock)
        play(progress, clock, run)
        progress.close()
        told = {}
        for event in _events(tmp_path):
            for value in event.summary.value:
                told.setdefault(value.tag, {})[event.step] = value.simple_value
        estimate = progress.estimate()
        assert told["progress/expected_steps"][estimate.step] == estimate.steps
        assert told["progress/seconds_remaining"][estimate.step] == 0
        low, high = (told[f"progress/seconds_remaining_{end}"] for end in ("low", "high"))
        assert all(low[step] <= high[step] for step in low)
        assert len(low) > 5
        assert told["progress/seconds_per_piece/validation"][estimate.step] == pytest.approx(0.5)

    def test_before_anything_is_known(self, clock):
        estimate = ntp.track(10, UNTIL, quiet=True, clock=clock).estimate()
        assert line(estimate) == "step 0 of about 10, 0 s passed, unknown remaining"
        panel(estimate, None, "run")

    def test_the_plot_of_a_constant(self):
        flat = np.ones(3)
        steps = np.array([1.0, 2, 3])
        text = plot(Fan("loss", steps, flat, steps + 3, flat, flat, flat)).plain
        assert text.count("\n") == 7


def _events(folder):
    """Records are an 8-byte length, 4 bytes of checksum, the event and 4 more."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    data, at = path.read_bytes(), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        yield Event.FromString(data[at + 12 : at + 12 + size])
        at += size + 16


def test_the_default_console_is_the_standard_error(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(ntp.track(3)) == [1, 2, 3]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Training: step 3 of about 3")
