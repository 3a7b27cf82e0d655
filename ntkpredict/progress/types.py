"""The vocabulary of shapes that the indicator's model shares."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float

Steps: TypeAlias = Float[np.ndarray, " points"]
"""Training steps, or what there is one of at each of them."""
