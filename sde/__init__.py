"""Training in function space: from a tangent model to its loss trajectory."""

from sde.choice import SolverName, choose_solver
from sde.descent import GradientDescent, as_gradient_descent
from sde.diffusion import Diffusion
from sde.directions import head_directions, head_path
from sde.equivariance import is_coordinate_wise, is_rotation_equivariant
from sde.extrapolate import extrapolate
from sde.growth import Growth, stable_growth
from sde.minibatch import epoch_order, minibatch_order
from sde.objective import CrossEntropy, Objective, SquaredError
from sde.problem import Examples, Problem
from sde.replay import Replay
from sde.solver import Solver
from sde.spectral import Spectral
from sde.stability import Stability, stability
from sde.training import observe
from sde.trajectory import Curve, Trajectory, log_grid

__all__ = [
    "CrossEntropy",
    "Curve",
    "Diffusion",
    "Examples",
    "GradientDescent",
    "Growth",
    "Objective",
    "Problem",
    "Replay",
    "Solver",
    "SolverName",
    "Spectral",
    "SquaredError",
    "Stability",
    "Trajectory",
    "as_gradient_descent",
    "choose_solver",
    "epoch_order",
    "extrapolate",
    "head_directions",
    "head_path",
    "is_coordinate_wise",
    "is_rotation_equivariant",
    "log_grid",
    "minibatch_order",
    "observe",
    "stability",
    "stable_growth",
]
