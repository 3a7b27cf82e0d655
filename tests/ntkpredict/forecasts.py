"""A forecast by hand."""

import numpy as np

import ntkpredict as ntp
from ntkpredict.validity import Signals, Validity
from sde import Curve, Stability

STABILITY = Stability(
    learning_rate=0.1,
    effective_learning_rate=1.0,
    critical_learning_rate=0.25,
    noise_mass=0.125,
    sharpness=15.2,
)
VALIDITY = Validity(
    word="fair",
    error=0.2,
    clock=np.array([-0.5, 0.0, 1 / 3]),
    signals=Signals("growing", coordinate_wise=False, difference=0.25, margin=2.5),
)


def curve(rows):
    return Curve(np.asarray(rows), np.clip(np.asarray(rows) / 4, 0, 1))


def forecast():
    """Of two minibatch orders."""
    return ntp.Forecast(
        steps=12.5,
        steps_interval=(10.0, 16.25),
        stopping_times=np.array([9.5, 12.0, 12.5, 17.0]),
        seconds=1.5,
        seconds_interval=(1.25, 2.0),
        reason=None,
        trajectory=ntp.Trajectory(
            np.array([0, 10, 20]),
            curve([[3.0, 0.1, 1 / 3], [2.9, 1e-7, 0.3]]),
            curve([[3.5, 2.0, 1.0], [3.25, 1.5, 1.25]]),
        ),
        stability=STABILITY,
        spectrum=np.array([2.5, 0.5, 1e-3]),
        validity=VALIDITY,
        pilot=None,
        cost=ntp.CostModel(0.5, (0.01, 0.02, 0.04), 0.125, 20),
        network="net",
        data="points",
        plan="sgd, lr 0.1, momentum 0.9, batch size 8",
        until="loss<=0.1x | validation_accuracy>=0.9",
        mode="head_exact",
        kernel="growing",
        solver="replay",
        samples=48,
        forecast_seconds={"cost of a batch": 0.5, "simulation": 1e-3},
        notes=("first", "zweite ü"),
        versions={"jax": "0.10.2"},
    )
