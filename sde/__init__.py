"""Training in function space: from a tangent model to its loss trajectory."""

from sde.directions import head_directions
from sde.equivariance import is_rotation_equivariant
from sde.extrapolate import extrapolated_replay
from sde.minibatch import epoch_order, minibatch_order
from sde.objective import CrossEntropy, Objective, SquaredError
from sde.replay import Examples, observe, replay
from sde.trajectory import Curve, Trajectory, log_grid

__all__ = [
    "CrossEntropy",
    "Curve",
    "Examples",
    "Objective",
    "SquaredError",
    "Trajectory",
    "epoch_order",
    "extrapolated_replay",
    "head_directions",
    "is_rotation_equivariant",
    "log_grid",
    "minibatch_order",
    "observe",
    "replay",
]
