"""The embedded default: a small pretrained network and a real data set, both usable offline."""

from ntkpredict.embedded.digits import Digits
from ntkpredict.embedded.network import ResidualNetwork, load_network, load_pretrained

__all__ = ["Digits", "ResidualNetwork", "load_network", "load_pretrained"]
