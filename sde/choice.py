"""Which solver a problem is given to."""

from typing import Literal, TypeAlias, get_args

from sde.diffusion import Diffusion, accurate_stride
from sde.problem import Problem
from sde.replay import Replay
from sde.solver import Solver
from sde.spectral import Spectral
from sde.stability import Stability

SolverName: TypeAlias = Literal["auto", "replay", "sde", "spectral"]


def check_name(name: str) -> None:
    """Refuse what is no solver.

    Raises:
        ValueError: an unknown name.
    """
    if name not in get_args(SolverName):
        msg = f"solver: got {name!r}; expected one of {get_args(SolverName)}"
        raise ValueError(msg)


def choose_solver(name: SolverName, problem: Problem, stable: Stability | None) -> Solver:
    """The solver of a name, ready for a problem.

    ``"auto"`` is the cheapest that the measurements of `experiments/solvers` vouch for: the closed
    forms where training is a quadratic with little noise; the SDE where the noise is within its
    limit and one of its steps stands for an epoch or more; else replay.

    Args:
        name: of the solver.
        problem: what is trained.
        stable: its `stability`.

    Raises:
        ValueError: an unknown name, or a solver that is wrong for the problem, with what to do.
    """
    check_name(name)
    diffusion = Diffusion() if stable is None else Diffusion(accurate_stride(stable))
    solvers: dict[str, Solver] = {"replay": Replay(), "sde": diffusion, "spectral": Spectral()}
    obstacles = {key: solver.obstacle(problem, stable) for key, solver in solvers.items()}
    if name == "auto":
        if stable is None or stable.margin < 1:  # a schedule may save what begins unstable
            return solvers["replay"]
        if obstacles["spectral"] is None:
            return solvers["spectral"]
        coarse = diffusion.stride * problem.batch_size >= problem.samples
        return diffusion if coarse and obstacles["sde"] is None else solvers["replay"]
    if obstacles[name] is not None:
        msg = f"solver: {name!r} {obstacles[name]}"
        raise ValueError(msg)
    return solvers[name]
