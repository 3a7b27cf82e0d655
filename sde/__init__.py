"""Training in function space: from a tangent model to its loss trajectory."""

from sde.choice import SolverName, choose_solver
from sde.descent import GradientDescent, as_gradient_descent
from sde.diffusion import Diffusion
from sde.directions import head_directions, head_kernel, head_path, moved_directions
from sde.equivariance import is_coordinate_wise, is_rotation_equivariant
from sde.extrapolate import extrapolate, onward, subsets
from sde.growth import Growth, growth_bound, stable_growth
from sde.minibatch import epoch_order, minibatch_order
from sde.noise import noise_scale
from sde.objective import CrossEntropy, Objective, SquaredError
from sde.problem import Examples, Problem
from sde.replay import Replay
from sde.solver import Solver
from sde.spectral import Spectral
from sde.stability import Stability, stabilities, stability
from sde.sweep import Rates, Swept, sweep
from sde.training import observe, observe_rates
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
    "Rates",
    "Replay",
    "Solver",
    "SolverName",
    "Spectral",
    "SquaredError",
    "Stability",
    "Swept",
    "Trajectory",
    "as_gradient_descent",
    "choose_solver",
    "epoch_order",
    "extrapolate",
    "growth_bound",
    "head_directions",
    "head_kernel",
    "head_path",
    "is_coordinate_wise",
    "is_rotation_equivariant",
    "log_grid",
    "minibatch_order",
    "moved_directions",
    "noise_scale",
    "observe",
    "observe_rates",
    "onward",
    "stabilities",
    "stability",
    "stable_growth",
    "subsets",
    "sweep",
]
