"""A clock of the test's own, and a run that is played on it."""

import dataclasses

import numpy as np
import pytest

import ntkpredict as ntp
from sde import Curve


class Clock:
    """Time passes when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@dataclasses.dataclass
class Run:
    """Validation losses at the multiples of `every`, and what a step and a pass take."""

    values: np.ndarray
    every: int = 20
    step_seconds: float = 0.1
    pass_seconds: float = 0.5

    def play(self, indicator, clock, until):
        """Train to a step."""
        while indicator.step < until:
            clock.wait(self.step_seconds)
            indicator.advance()
            if indicator.step % self.every == 0:
                clock.wait(self.pass_seconds)
                indicator.lap("validation")
                value = self.values[indicator.step // self.every - 1]
                indicator.report({"validation_loss": value})

    def seconds(self, start, stop):
        """Between two steps."""
        passes = stop // self.every - start // self.every
        return (stop - start) * self.step_seconds + passes * self.pass_seconds


@pytest.fixture
def run():
    """Falls, and is flat from about step 1000 on."""
    u = np.arange(1, 101)
    noise = 0.03 * np.random.default_rng(0).normal(size=100)
    return Run((0.5 + 1.8 * np.exp(-u / 12)) * (1 + noise))


@pytest.fixture
def forecast(forecast, run):
    """Of that run, a third too fast."""
    steps = np.arange(0, 2001, 20)
    rows = 0.5 + 1.8 * np.exp(-steps / 180) * np.array([[1.0], [1.03]])
    curves = Curve(rows, np.clip(1 - rows / 3, 0, 1))
    return dataclasses.replace(
        forecast,
        steps=800.0,
        steps_interval=(500.0, 1300.0),
        stopping_times=np.array([500.0, 800.0, 1300.0]),
        seconds=100.0,
        seconds_interval=(60.0, 160.0),
        trajectory=ntp.Trajectory(steps, curves, curves),
        validity=dataclasses.replace(forecast.validity, clock=np.linspace(-0.6, 0.6, 21)),
        cost=ntp.CostModel(1.0, (0.1, 0.1, 0.1), 0.5, 20),
        until=str(ntp.EarlyStopping(5, every=20)),
    )
