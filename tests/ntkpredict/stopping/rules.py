"""One of each rule, and what it says of one curve."""

import numpy as np

import ntkpredict as ntp

STEPS = np.array([0, 1, 2, 4, 8])

RULES = [
    ntp.TargetLoss(0.1),
    ntp.TargetLoss(relative=0.1),
    ntp.TargetLoss(1e-5, on="validation"),
    ntp.TargetLoss(relative=0.05, on="validation"),
    ntp.TargetAccuracy(0.95),
    ntp.TargetAccuracy(1.0, on="validation"),
    ntp.Converged(0.01),
    ntp.EarlyStopping(5, every=20),
    ntp.EarlyStopping(0, every=1, min_delta=1e-5, on="train"),
    ntp.EarlyStopping(3, every=7, min_delta=0.01, metric="accuracy"),
    ntp.EarlyStopping(2, every=9, min_delta=0.01, framework="huggingface"),
    ntp.EarlyStopping(2, every=9, on="train", framework="lightning"),
    ntp.Best(),
    ntp.Best(on="train", metric="accuracy"),
    ntp.MaxSteps(500),
    ntp.MaxSteps(123_456_789),
]


def one(rule, curves, **options):
    """The step at which the only run meets a rule."""
    steps = rule.steps(curves, **options)
    assert steps.shape == (1,)
    return float(steps[0])
