"""The embedded network: a residual network for 8×8 digits, its body pretrained on MNIST."""

import importlib.resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float

from linearize import Network

_CHANNELS_PER_GROUP = 8
_EPSILON = 1e-5


def _normalize(name: str) -> nn.GroupNorm:
    return nn.GroupNorm(
        num_groups=None, group_size=_CHANNELS_PER_GROUP, epsilon=_EPSILON, name=name
    )


class ResidualBlock(nn.Module):
    """Pre-activation residual block: x + conv(relu(norm(conv(relu(norm(x)))))).

    Where the shape changes, the shortcut is a strided 1×1 convolution of relu(norm(x)).

    Attributes:
        channels: output channels, a multiple of 8.
        stride: of the first convolution, in pixels.

    Source: He et al., Identity Mappings in Deep Residual Networks, 2016, arXiv:1603.05027.
    """

    channels: int
    stride: int = 1

    @nn.compact  # type: ignore[untyped-decorator]
    def __call__(
        self, x: Float[Array, "samples height width inputs"]
    ) -> Float[Array, "samples rows columns channels"]:
        """Output of the block; each side is divided by the stride."""
        strides = (self.stride, self.stride)
        active = nn.relu(_normalize("norm1")(x))
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.channels:
            shortcut = nn.Conv(self.channels, (1, 1), strides, use_bias=False, name="shortcut")(
                active
            )
        hidden = nn.Conv(self.channels, (3, 3), strides, use_bias=False, name="conv1")(active)
        hidden = nn.relu(_normalize("norm2")(hidden))
        return shortcut + nn.Conv(self.channels, (3, 3), use_bias=False, name="conv2")(hidden)


class ResidualNetwork(nn.Module):
    """Residual network with group normalisation: deterministic, no interaction between samples.

    Stem, one stage per width (the first block of each later stage halves both sides), final
    normalisation, ReLU, mean over the pixels, and the dense layer `head`.

    Attributes:
        outputs: number of classes.
        widths: channels of each stage, multiples of 8; the last is the number of features.
        blocks: residual blocks per stage.
    """

    outputs: int = 10
    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 2

    @nn.compact  # type: ignore[untyped-decorator]
    def __call__(
        self, x: Float[Array, "samples height width 1"]
    ) -> Float[Array, "samples outputs"]:
        """Logits of grey images with values in 0..1; pretrained for 8×8 pixels."""
        x = nn.Conv(self.widths[0], (3, 3), use_bias=False, name="stem")(x)
        for stage, channels in enumerate(self.widths, start=1):
            for block in range(self.blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                x = ResidualBlock(channels, stride, name=f"stage{stage}_block{block}")(x)
        features = nn.relu(_normalize("norm")(x)).mean(axis=(1, 2))
        return nn.Dense(self.outputs, name="head")(features)


def load_pretrained(*, outputs: int, seed: int) -> tuple[ResidualNetwork, dict[str, Any]]:
    """The embedded network with its pretrained body and a fresh head.

    Args:
        outputs: number of classes of the new task, at least 1.
        seed: of the head's LeCun-normal kernel (its bias is zero).

    Returns:
        The module and its variables `{"params": ...}`, in float32.

    Raises:
        ValueError: if `outputs` is not a positive integer.
    """
    if outputs < 1:
        msg = f"outputs: got {outputs}; expected a positive integer"
        raise ValueError(msg)
    module = ResidualNetwork(outputs=outputs)
    images = jnp.zeros((1, 8, 8, 1))
    head = jax.jit(lambda key: module.init(key, images)["params"]["head"])(jax.random.key(seed))
    body = traverse_util.unflatten_dict(_read_weights(), sep="/")
    return module, {"params": {**body, "head": head}}


def load_network(*, outputs: int = 10, seed: int = 0) -> Network:
    """The embedded network, ready for `ntkpredict.predict`; arguments as for `load_pretrained`."""
    module, variables = load_pretrained(outputs=outputs, seed=seed)
    return Network.from_linen(module, variables, head="head")


def _read_weights() -> dict[str, Array]:
    """The body's parameters by path, such as "stage1_block0/conv1/kernel"."""
    resource = importlib.resources.files("ntkpredict.embedded") / "weights.npz"
    with resource.open("rb") as file, np.load(file, allow_pickle=False) as weights:
        return {path: jnp.asarray(weights[path], jnp.float32) for path in weights.files}
