"""Flax NNX."""

from typing import Any

from flax import nnx

from linearize.network import Network, Trainable
from linearize.types import Inputs, Outputs, Params


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
    """
    definition, params, state = nnx.split(model, nnx.Param, ...)

    def apply(values: Params, inputs: Inputs) -> Outputs:
        nnx.replace_by_pure_dict(restored := nnx.clone(params), values)
        return nnx.merge(definition, restored, state)(inputs)

    return Network.from_function(
        apply,
        nnx.to_pure_dict(params),
        head=head,
        trainable=trainable,
        name=name or type(model).__name__,
    )
