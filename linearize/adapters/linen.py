"""Flax Linen."""

from typing import Any

from flax import errors

from linearize.network import Network, Trainable
from linearize.types import Inputs, Params


def from_linen(
    module: Any,
    variables: Any,
    *,
    head: str | None = None,
    trainable: Trainable = None,
    name: str | None = None,
    **apply_arguments: Any,
) -> Network:
    """A network from a Flax Linen module.

    Args:
        module: a `flax.linen.Module`.
        variables: as `module.init` returns them: ``"params"`` trains, every other collection (such
            as ``"batch_stats"``) is frozen state.
        head: name of the last dense layer, such as ``"head"`` or ``"Dense_0"``.
        trainable: which parameters train; see `Network.from_function`.
        name: what messages and records call it; the class name by default.
        **apply_arguments: passed on to `module.apply`, such as ``train=False``.

    Raises:
        ValueError: no ``"params"`` collection, BatchNorm or dropout in training mode, and the
            errors of `Network.from_function`.
    """
    if "params" not in variables:
        msg = f"variables: no 'params' collection, got {sorted(variables)}; pass what init returned"
        raise ValueError(msg)
    state = {key: value for key, value in variables.items() if key != "params"}

    def apply(params: Params, inputs: Inputs) -> Any:
        try:
            return module.apply({"params": params, **state}, inputs, **apply_arguments)
        except errors.ModifyScopeVariableError as error:
            msg = (
                f"module: {type(module).__name__} changes its state while it is applied "
                "(BatchNorm in training mode?); use running averages, for example train=False"
            )
            raise ValueError(msg) from error
        except errors.InvalidRngError as error:
            msg = (
                f"module: {type(module).__name__} draws random numbers while it is applied "
                "(dropout?); make it deterministic, for example train=False"
            )
            raise ValueError(msg) from error
        except errors.FlaxError as error:
            raise ValueError(str(error)) from error

    return Network.from_function(
        apply,
        variables["params"],
        head=head,
        trainable=trainable,
        name=name or type(module).__name__,
    )
