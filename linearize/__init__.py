"""A network seen from its pretrained weights: per-sample tangent features and their kernel."""

from linearize.compression import compress
from linearize.guards import check
from linearize.kernel import Kernel, empirical_ntk, exact_ntk, kernel_trace, spectrum
from linearize.linearization import body_features, linearize
from linearize.moments import gradient_moments
from linearize.movement import feature_movement
from linearize.network import Head, Network, pullback
from linearize.projection import Achlioptas, CountSketch, Identity, Projection, ScaledSketch
from linearize.tangent import HeadExactTangent, LinearTangent, TangentModel

__all__ = [
    "Achlioptas",
    "CountSketch",
    "Head",
    "HeadExactTangent",
    "Identity",
    "Kernel",
    "LinearTangent",
    "Network",
    "Projection",
    "ScaledSketch",
    "TangentModel",
    "body_features",
    "check",
    "compress",
    "empirical_ntk",
    "exact_ntk",
    "feature_movement",
    "gradient_moments",
    "kernel_trace",
    "linearize",
    "pullback",
    "spectrum",
]
