"""When training is over: rules that turn curves into a number of steps."""

from ntkpredict.stopping.best import Best
from ntkpredict.stopping.early import EarlyStopping
from ntkpredict.stopping.rule import AnyOf, MaxSteps, Steps, StoppingRule
from ntkpredict.stopping.target import Converged, TargetAccuracy, TargetLoss
from ntkpredict.stopping.text import parse
from ntkpredict.stopping.watch import Watch

__all__ = [
    "AnyOf",
    "Best",
    "Converged",
    "EarlyStopping",
    "MaxSteps",
    "Steps",
    "StoppingRule",
    "TargetAccuracy",
    "TargetLoss",
    "Watch",
    "parse",
]
