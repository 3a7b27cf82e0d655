"""How long will fine-tuning take? Steps and seconds to your stopping rule, before launch."""

from linearize import Network
from ntkpredict.budget import Budget
from ntkpredict.calibration import Calibration
from ntkpredict.candidate import Candidate
from ntkpredict.compare import compare
from ntkpredict.cost import CostModel, measure_cost
from ntkpredict.data import Data, load_data
from ntkpredict.forecast import Forecast
from ntkpredict.history import History, Record
from ntkpredict.imports import import_runs
from ntkpredict.machine import Machine
from ntkpredict.plan import Plan, Scaled
from ntkpredict.predict import predict
from ntkpredict.progress import Estimate, Tracker, track
from ntkpredict.ranking import Ranking
from ntkpredict.remember import remember
from ntkpredict.report import Figure, figures, report
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
    "Budget",
    "Calibration",
    "Candidate",
    "Comparison",
    "Converged",
    "CostModel",
    "CrossEntropy",
    "Data",
    "EarlyStopping",
    "Estimate",
    "Figure",
    "Forecast",
    "History",
    "Machine",
    "MaxSteps",
    "Network",
    "Objective",
    "Plan",
    "Ranking",
    "Record",
    "Run",
    "Scaled",
    "SquaredError",
    "StoppingRule",
    "TargetAccuracy",
    "TargetLoss",
    "Tracker",
    "Trajectory",
    "Validation",
    "compare",
    "figures",
    "import_runs",
    "load_data",
    "measure_cost",
    "parse",
    "predict",
    "remember",
    "report",
    "track",
    "train",
    "validate",
]
