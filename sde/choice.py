"""Which solver a problem is given to."""

from typing import Literal, TypeAlias, get_args

from sde.diffusion import Diffusion, accurate_stride
from sde.problem import Problem
from sde.replay import Replay
from sde.solver import Solver
from sde.spectral import Spectral
from sde.stability import Stability

SolverName: TypeAlias = Literal["auto", "replay", "sde", "spectral"]


def choose_solver(name: SolverName, problem: Problem, stable: Stability | None) -> Solver:
    """The solver of a name, ready for a problem.

    ``"auto"`` is ``"spectral"`` where its assumptions hold, and ``"replay"`` everywhere else.
    ``"sde"`` is never chosen: it approximates what replay does, and where both run it is not
    faster (`experiments/solvers`).

    Args:
        name: of the solver.
        problem: what is trained.
        stable: its `stability`.

    Raises:
        ValueError: an unknown name, or a solver that is wrong for the problem, with what to do.
    """
    if name not in get_args(SolverName):
        msg = f"solver: got {name!r}; expected one of {get_args(SolverName)}"
        raise ValueError(msg)
    diffusion = Diffusion() if stable is None else Diffusion(accurate_stride(stable))
    solvers: dict[str, Solver] = {"replay": Replay(), "sde": diffusion, "spectral": Spectral()}
    if name == "auto":
        name = "replay" if solvers["spectral"].obstacle(problem, stable) else "spectral"
    obstacle = solvers[name].obstacle(problem, stable)
    if obstacle is not None:
        msg = f"solver: {name!r} {obstacle}"
        raise ValueError(msg)
    return solvers[name]
