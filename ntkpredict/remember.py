"""Results on their way into the history."""

from __future__ import annotations

import os
import platform
import uuid
import warnings
from typing import Any

import jax

from linearize import Network
from ntkpredict.data import Data
from ntkpredict.fingerprint import digest
from ntkpredict.forecast import Forecast
from ntkpredict.history import History, Kind, Task
from ntkpredict.plan import Plan
from ntkpredict.stopping import StoppingRule
from ntkpredict.train import Run
from ntkpredict.versions import versions


def remember(
    history: History | None,
    network: Network,
    data: Data,
    plan: Plan,
    until: StoppingRule | None,
    *results: Forecast | Run,
) -> None:
    """Keep a forecast, a run, or both of one session, so that they find each other.

    A history that cannot be written is a warning: the results are worth more.

    Args:
        history: where; nothing is kept where None.
        network: the network before training.
        data: the data.
        plan: the plan.
        until: the stopping rule, if there was one.
        *results: what came of it.
    """
    if history is None:
        return
    session, task = uuid.uuid4().hex, describe(network, data, plan, until)
    try:
        for result in results:
            kind: Kind = "forecast" if isinstance(result, Forecast) else "run"
            history.add(kind, session, task, result.to_dict())
    except OSError as error:
        warnings.warn(f"not kept: {error}", stacklevel=2)


def describe(network: Network, data: Data, plan: Plan, until: StoppingRule | None) -> Task:
    """What is forecast or trained, where and with what."""
    machine: dict[str, Any] = {
        "name": platform.node(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
    }
    return Task(
        network=network.name,
        network_fingerprint=digest((network.params, network.frozen)),
        data=data.name,
        data_fingerprint=digest((data.train, data.validation)),
        plan=f"{plan.description}, at most {plan.max_steps} steps, seed {plan.seed}",
        until="" if until is None else str(until),
        machine=machine,
        versions={**versions(), "python": platform.python_version()},
    )
