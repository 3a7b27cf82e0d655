"""Results by hand."""

import numpy as np

import ntkpredict as ntp
from ntkpredict.ranking import rank
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


def candidate(rate, size, machine, steps, loss):
    """A plan that takes so many steps; None where it diverges."""
    reached = steps is not None
    seconds = steps and machine.seconds(1.5 + 0.025 * steps)
    times = np.array([0.8, 1.0, 1.25]) * (steps or np.inf)
    return ntp.Candidate(
        plan=f"sgd, lr {rate}, momentum 0.9, batch size {size}",
        optimizer="sgd, momentum 0.9",
        learning_rate=rate,
        batch_size=size,
        machine=machine,
        limit=200,
        steps=steps,
        steps_interval=(0.8 * steps, None) if reached else None,
        seconds=seconds,
        seconds_interval=(0.8 * seconds, 1.25 * seconds) if reached else None,
        price=machine.price and seconds and machine.price * seconds / 3600,
        price_interval=None,
        reason=None if reached else "diverges: lower the learning rate",
        train_loss=loss / 2,
        validation_loss=loss,
        validation_accuracy=1 - loss / 4,
        stopping_times=times,
        final_losses=loss * np.array([0.9, 1.0, 1.1]),
        seconds_per_step=machine.seconds(0.025),
        overhead_seconds=machine.seconds(1.5),
        stability=STABILITY,
        validity=VALIDITY,
        diverged=not reached,
        trajectory=forecast().trajectory.quantile(0.5),
    )


PLANS = (
    (0.1, 8, None, 2.75),
    (0.01, 8, 150.0, 0.25),
    (0.1, 16, 100.0, 0.375),
    (0.01, 16, 125.0, 0.1875),
)


def ranking(plans=PLANS):
    """Two learning rates, the larger of which diverges with the smaller of two batch sizes."""
    machines = ntp.Machine("cpu", price=0.2), ntp.Machine("a100", price=3.2, throughput=4.0)
    found = [
        candidate(rate, size, machine, steps, loss)
        for machine in machines
        for rate, size, steps, loss in plans
    ]
    return ntp.Ranking(
        **rank(found, "seconds"),
        noise_scale=17.25,
        network="net",
        data="points",
        until="loss<=0.1x",
        within="20min",
        samples=48,
        forecast_seconds={"simulation, SGD-like": 12.5},
        notes=("first",),
        versions={"jax": "0.10.2"},
    )
