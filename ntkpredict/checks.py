"""What cannot be forecast is refused."""

from __future__ import annotations

import numpy as np

from linearize import Network, check
from ntkpredict.data import Data
from ntkpredict.plan import Plan
from ntkpredict.step import TrainingStep
from ntkpredict.stopping import StoppingRule
from sde import Curve, Trajectory, is_coordinate_wise, is_rotation_equivariant


def check_task(network: Network, data: Data, plan: Plan) -> int:
    """Refuse what cannot be forecast; the number of the network's outputs."""
    outputs = check(network, data.train[0])
    for split in (data.train, data.validation):
        if split is not None:
            plan.objective.targets(split[1], outputs)
    check_optimizer(plan)
    return outputs


def check_optimizer(plan: Plan) -> None:
    """Refuse an optimizer that cannot be forecast."""
    if not (is_rotation_equivariant(plan.optimizer) or is_coordinate_wise(plan.optimizer)):
        msg = (
            f"optimizer: {plan.name} cannot be forecast: it treats neither all directions alike, "
            "as sgd does (momentum, clipping by global norm, weight decay, schedules), nor each "
            "coordinate by itself and free of its scale, as adam, adamw, rmsprop and lion do "
            "(weight decay, schedules; no clipping by global norm, a small eps)"
        )
        raise ValueError(msg)


def refuse_if_met(until: StoppingRule, step: TrainingStep) -> None:
    """Refuse a target that is met before training."""
    params = step.initial().params
    start = {split: Curve.of([step.evaluate(params, split)]) for split in step.evaluated}
    point = Trajectory(np.array([0]), start["train"], start.get("validation"))
    until.steps(point, complete=False)
