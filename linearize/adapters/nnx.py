"""Flax NNX."""

from typing import Any

from flax import nnx

from linearize.network import Network, Trainable, paths
from linearize.types import Inputs, Params


def from_nnx(
    model: Any,
    *,
    head: str | None = None,
    trainable: Trainable = None,
    name: str | None = None,
) -> Network:
    """A network from a Flax NNX model, as it stands: call `model.eval()` first.

    Args:
        model: an `nnx.Module` that is called with the inputs alone. Its `nnx.Param` variables
            train; everything else is frozen state. The model itself is never changed.
        head: name of the last linear layer.
        trainable: which parameters train; see `Network.from_function`.
        name: what messages and records call it; the class name by default.

    Raises:
        ValueError: a model in training mode, and the errors of `Network.from_function`.
    """
    definition, params, state = nnx.split(nnx.clone(model), nnx.Param, ...)

    def apply(values: Params, inputs: Inputs) -> Any:
        nnx.replace_by_pure_dict(restored := nnx.clone(params), values)
        copy = nnx.merge(definition, restored, nnx.clone(state))
        outputs = copy(inputs)
        before, after = paths(state), paths(nnx.state(copy))
        changed = [path for path, leaf in before.items() if after[path] is not leaf]
        if changed:
            first = changed[0].removesuffix("/value")
            msg = (
                f"model: {type(model).__name__} changes {first!r} while it is applied "
                "(BatchNorm or dropout in training mode?); call model.eval() first"
            )
            raise ValueError(msg)
        return outputs

    return Network.from_function(
        apply,
        nnx.to_pure_dict(params),
        head=head,
        trainable=trainable,
        name=name or type(model).__name__,
    )
