"""The vocabulary of shapes that the three packages share.

`samples` N, `outputs` C (classes), `features` d (inputs of the head), `directions` q (of feature
space), `projected` k (columns of a random projection), `parameters` D.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jaxtyping import Float

Array: TypeAlias = jax.Array
Params: TypeAlias = Any
"""A pytree of arrays, in the structure that its owner chose."""

Inputs: TypeAlias = Any
"""Network inputs: an array, or a pytree of arrays, with the samples on the leading axis."""

Outputs: TypeAlias = Float[Array, "samples outputs"]
Apply: TypeAlias = Callable[[Params, Inputs], Outputs]
Progress: TypeAlias = Callable[[int, int], None]
"""Called with (units done, units in all)."""
