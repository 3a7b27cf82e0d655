"""What the runs of a history tell of the noise of the next one."""

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.history import History, Task
from ntkpredict.progress import Indicator, NoisePrior, noise_prior
from ntkpredict.record import to_plain
from sde import Curve

TASK = Task("net", "", "data", "", "plan", "", {}, {})
STEPS = np.arange(20, 801, 20)


def curve(noise, random, asymptote=0.6):
    u = STEPS / 20
    level = (asymptote + 1.4 * np.exp(-u / 8)) / 2
    return 2 * (level + noise * np.sqrt(level) * random.normal(size=len(u)))


def keep(history, values):
    rows = np.atleast_2d(values)
    run = ntp.Trajectory(STEPS, Curve(rows, rows), Curve(rows, np.full(rows.shape, np.nan)))
    history.add("run", "s", TASK, {"trajectory": to_plain(run)})


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "history.sqlite")


@pytest.mark.parametrize("noise", [0.005, 0.12])
def test_the_prior_comes_closer_with_every_run(noise, history):
    random = np.random.default_rng(0)
    wanted = keep_apart = abs(np.log(NoisePrior().scale / noise))
    for runs in (2, 30):
        for _ in range(runs):
            keep(history, curve(noise, random))
        apart = abs(np.log(noise_prior(history).scale / noise))
        assert apart < keep_apart
        keep_apart = apart
    assert keep_apart < 0.4 * wanted
    assert noise_prior(history).freedom > NoisePrior().freedom


def test_runs_that_differ_say_that_noise_is_not_known(history):
    random = np.random.default_rng(1)
    for noise in np.geomspace(0.001, 0.3, 16):
        keep(history, curve(noise, random))
    found = noise_prior(history)
    assert found.freedom < NoisePrior().freedom
    assert sum(found.weights) == pytest.approx(1)


def test_without_runs_it_is_what_is_shipped(history):
    assert noise_prior(None) == noise_prior(history) == NoisePrior()
    keep(history, np.full(len(STEPS), np.nan))
    history.add("forecast", "s", TASK, {})
    assert noise_prior(history) == NoisePrior()
    history.path.write_text("x" * 5000)
    with pytest.warns(UserWarning, match="no noise prior from own runs: history: "):
        assert noise_prior(history) == NoisePrior()


def test_the_indicator_is_the_surer_for_it(history, clock):
    """Of a quiet user's runs, early on: the interval is narrower and holds the stop more often."""
    random = np.random.default_rng(2)
    for _ in range(20):
        keep(history, curve(0.004, random))
    values = curve(0.004, random)
    width = []
    for prior in (NoisePrior(), noise_prior(history)):
        indicator = Indicator(ntp.EarlyStopping(5, every=20), 2000, noise=prior, clock=clock)
        for step, value in zip(STEPS[:6], values, strict=False):
            indicator.advance(20)
            indicator.report({"validation_loss": value})
            assert indicator.step == step
        low, high = indicator.estimate().steps_interval
        width.append(high - low)
    assert width[1] <= width[0]
