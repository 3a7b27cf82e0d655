"""The architectures, in Flax Linen: bodies that map normalised images to pooled features.

Layers keep the names of their source (`.` becomes `_`), so that loading is a change of layout only.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

Images = Float[Array, "samples height width 3"]
Features = Float[Array, "samples features"]


class Classifier(nn.Module):
    """f(x) = Wᵀh(x) + b: the dense layer `head` over the pooled features of a body.

    Attributes:
        body: maps images to features.
        outputs: number of classes.
    """

    body: nn.Module
    outputs: int

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "samples outputs"]:
        """Logits of normalised images."""
        return nn.Dense(self.outputs, name="head")(self.body(x))


class CifarResNet(nn.Module):
    """ResNet-20, 56, ... for CIFAR, whose shortcuts pad with zero channels (option A).

    Attributes:
        blocks: residual blocks per stage.

    Source: He et al., Deep Residual Learning, 2015, arXiv:1512.03385, section 4.2.
    """

    blocks: int

    @nn.compact
    def __call__(self, x: Images) -> Features:
        """64 features."""
        x = nn.relu(_norm(_conv(x, 16, 3, "conv1"), "bn1"))
        for stage, channels in enumerate((16, 32, 64), start=1):
            for block in range(self.blocks):
                name, stride = f"layer{stage}_{block}", 2 if stage > 1 and block == 0 else 1
                shortcut = x[:, ::stride, ::stride]
                missing = (channels - x.shape[-1]) // 2
                shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (missing, missing)))
                x = _conv(x, channels, 3, f"{name}_conv1", stride=stride)
                x = nn.relu(_norm(x, f"{name}_bn1"))
                x = _norm(_conv(x, channels, 3, f"{name}_conv2"), f"{name}_bn2")
                x = nn.relu(x + shortcut)
        return x.mean(axis=(1, 2))


class KerasResNet8(nn.Module):
    """ResNet-8 of MLPerf Tiny: convolutions with bias, padded as TensorFlow does."""

    @nn.compact
    def __call__(self, x: Images) -> Features:
        """64 features."""
        convolutions, norms = iter(range(9)), iter(range(7))

        def conv(x: Array, channels: int, size: int, stride: int = 1) -> Array:
            name = _numbered("conv2d", next(convolutions))
            return _conv(x, channels, size, name, stride=stride, bias=True, padding="SAME")

        def norm(x: Array) -> Array:
            return _norm(x, _numbered("batch_normalization", next(norms)), epsilon=1e-3)

        x = nn.relu(norm(conv(x, 16, 3)))
        for stride, channels in ((1, 16), (2, 32), (2, 64)):
            inner = nn.relu(norm(conv(x, channels, 3, stride)))
            inner = norm(conv(inner, channels, 3))
            shortcut = x if stride == 1 else conv(x, channels, 1, stride)
            x = nn.relu(inner + shortcut)
        return x.mean(axis=(1, 2))


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 up to the input of its classifier; no BatchNorm.

    Source: Iandola et al., SqueezeNet, 2016, arXiv:1602.07360.
    """

    @nn.compact
    def __call__(self, x: Images) -> Features:
        """512 features: the last fire's output, averaged over the pixels."""
        x = nn.relu(_conv(x, 64, 3, "conv0", stride=2, bias=True, padding=0))
        for fire, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
            if fire in (0, 2, 4):
                x = nn.max_pool(x, (3, 3), (2, 2))
            names = [f"conv{3 * fire + i}" for i in (1, 2, 3)]
            x = nn.relu(_conv(x, squeeze, 1, names[0], bias=True))
            wide = [_conv(x, 4 * squeeze, size, names[size // 2 + 1], bias=True) for size in (1, 3)]
            x = nn.relu(jnp.concatenate(wide, axis=-1))
        return x.mean(axis=(1, 2))


class MobileNetV2(nn.Module):
    """MobileNetV2 with plain ReLU; Gluon's strides, which are not those of the paper.

    Source: Sandler et al., MobileNetV2, 2018, arXiv:1801.04381.
    """

    @nn.compact
    def __call__(self, x: Images) -> Features:
        """1,280 features."""
        x = nn.relu(_norm(_conv(x, 32, 3, "conv0", stride=2), "batchnorm0"))
        widths = [16] + 2 * [24] + 3 * [32] + 4 * [64] + 3 * [96] + 3 * [160] + [320]
        for block, channels in enumerate(widths):
            name, stride = f"linearbottleneck{block}_", 2 if block in (1, 3, 10, 13) else 1
            hidden = x.shape[-1] * (6 if block else 1)
            inner = _conv(x, hidden, 1, name + "conv0")
            inner = nn.relu(_norm(inner, name + "batchnorm0"))
            inner = _conv(inner, hidden, 3, name + "conv1", stride=stride, groups=hidden)
            inner = nn.relu(_norm(inner, name + "batchnorm1"))
            inner = _norm(_conv(inner, channels, 1, name + "conv2"), name + "batchnorm2")
            x = x + inner if stride == 1 and x.shape[-1] == channels else inner
        x = nn.relu(_norm(_conv(x, 1280, 1, "conv1"), "batchnorm1"))
        return x.mean(axis=(1, 2))


class ResNet50V2(nn.Module):
    """Stem and stages 1-3 of the pre-activation ResNet-50, and the norm that follows them.

    Source: He et al., Identity Mappings in Deep Residual Networks, 2016, arXiv:1603.05027.
    """

    @nn.compact
    def __call__(self, x: Images) -> Features:
        """1,024 features."""
        x = _conv(_norm(x, "batchnorm0"), 64, 7, "conv0", stride=2)
        x = nn.relu(_norm(x, "batchnorm1"))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, units in enumerate((3, 4, 6), start=1):
            name, channels = f"stage{stage}_", 32 * 2**stage
            for unit in range(units):
                stride = 2 if stage > 1 and unit == 0 else 1
                # The first unit's shortcut is its fourth convolution.
                norm, conv = 3 * unit, 3 * unit + (unit > 0)
                shortcut = x
                active = nn.relu(_norm(x, f"{name}batchnorm{norm}"))
                if unit == 0:
                    shortcut = _conv(active, 4 * channels, 1, f"{name}conv3", stride=stride)
                x = _conv(active, channels, 1, f"{name}conv{conv}")
                x = nn.relu(_norm(x, f"{name}batchnorm{norm + 1}"))
                x = _conv(x, channels, 3, f"{name}conv{conv + 1}", stride=stride)
                x = nn.relu(_norm(x, f"{name}batchnorm{norm + 2}"))
                x = _conv(x, 4 * channels, 1, f"{name}conv{conv + 2}") + shortcut
        return nn.relu(_norm(x, "stage4_batchnorm0")).mean(axis=(1, 2))


@dataclass(frozen=True)
class Convolution:
    """One convolution of MCUNet with what its output is clamped to.

    Attributes:
        name: of the layer.
        channels: output channels.
        size: of the square kernel, in pixels.
        stride: in pixels.
        groups: 1, or the number of channels of a depthwise convolution.
        limits: smallest and largest output; 0 and 6 is ReLU6.
    """

    name: str
    channels: int
    size: int
    stride: int
    groups: int
    limits: tuple[float, float]


@dataclass(frozen=True)
class Block:
    """A chain of convolutions.

    Attributes:
        convolutions: in order.
        residual: what the sum with the block's input is clamped to, or None where none is added.
    """

    convolutions: tuple[Convolution, ...]
    residual: tuple[float, float] | None


class MCUNet(nn.Module):
    """MCUNet, dequantised: BatchNorm is folded, and activations keep the int8 network's range.

    Attributes:
        blocks: as in the source's description.

    Source: Lin et al., MCUNet, 2020, arXiv:2007.10319.
    """

    blocks: tuple[Block, ...]

    @nn.compact
    def __call__(self, x: Images) -> Features:
        """160 features."""
        for block in self.blocks:
            inner = x
            for step in block.convolutions:
                inner = _conv(
                    inner,
                    step.channels,
                    step.size,
                    step.name,
                    stride=step.stride,
                    groups=step.groups,
                    bias=True,
                )
                inner = jnp.clip(inner, *step.limits)
            x = inner if block.residual is None else jnp.clip(x + inner, *block.residual)
        return x.mean(axis=(1, 2))


def _conv(
    x: Array,
    channels: int,
    size: int,
    name: str,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    padding: int | str | None = None,
) -> Array:
    """A square convolution; padded by size // 2 on each side where nothing else is said."""
    return nn.Conv(
        channels,
        (size, size),
        (stride, stride),
        size // 2 if padding is None else padding,
        feature_group_count=groups,
        use_bias=bias,
        name=name,
    )(x)


def _norm(x: Array, name: str, epsilon: float = 1e-5) -> Array:
    return nn.BatchNorm(use_running_average=True, epsilon=epsilon, name=name)(x)


def _numbered(name: str, number: int) -> str:
    """Keras counts its layers from the second on."""
    return f"{name}_{number}" if number else name
