"""How much longer: an indicator that knows the stopping rule and learns from the curve.

`ntkpredict.progress.keras`, `.huggingface` and `.lightning` have callbacks for these frameworks.
"""

from ntkpredict.counter import (
    Count,
    Counter,
    HuggingFaceCounter,
    KerasCounter,
    LightningCounter,
    TargetCounter,
)
from ntkpredict.progress.estimate import Estimate
from ntkpredict.progress.indicator import Indicator
from ntkpredict.progress.noise import noise_prior
from ntkpredict.progress.posterior import NoisePrior
from ntkpredict.progress.track import track
from ntkpredict.progress.tracker import Tracker
from ntkpredict.stopping import Watch

__all__ = [
    "Count",
    "Counter",
    "Estimate",
    "HuggingFaceCounter",
    "Indicator",
    "KerasCounter",
    "LightningCounter",
    "NoisePrior",
    "TargetCounter",
    "Tracker",
    "Watch",
    "noise_prior",
    "track",
]
