"""How long will fine-tuning take? Steps and seconds to your stopping rule, before launch."""

from linearize import Network
from ntkpredict.cost import CostModel, measure_cost
from ntkpredict.data import Data, load_data
from ntkpredict.forecast import Forecast
from ntkpredict.plan import Plan
from ntkpredict.predict import predict
from ntkpredict.progress import Estimate, Tracker, track
from ntkpredict.stopping import (
    AnyOf,
    Best,
    Converged,
    EarlyStopping,
    MaxSteps,
    StoppingRule,
    TargetAccuracy,
    TargetLoss,
    parse,
)
from ntkpredict.train import Run, train
from ntkpredict.validate import Comparison, Validation, validate
from sde import CrossEntropy, Objective, SquaredError, Trajectory

__all__ = [
    "AnyOf",
    "Best",
    "Comparison",
    "Converged",
    "CostModel",
    "CrossEntropy",
    "Data",
    "EarlyStopping",
    "Estimate",
    "Forecast",
    "MaxSteps",
    "Network",
    "Objective",
    "Plan",
    "Run",
    "SquaredError",
    "StoppingRule",
    "TargetAccuracy",
    "TargetLoss",
    "Tracker",
    "Trajectory",
    "Validation",
    "load_data",
    "measure_cost",
    "parse",
    "predict",
    "track",
    "train",
    "validate",
]
