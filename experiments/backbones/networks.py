"""Real pretrained networks, rebuilt in Flax Linen from the arrays in the data folder.

    backbone = load_backbone("resnet20", outputs=5, seed=0, head_scale=0.1)
    network = Network.from_linen(backbone.module, backbone.variables, head="head")
    inputs = backbone.preprocess(images)  # uint8, NHWC

Layers keep the names of their source (`.` becomes `_`), so that loading is a change of layout only.
The data folder is `NTKPREDICT_DATA`, or `../shared/data` beside the repository.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float, UInt8
from PIL import Image

Images = Float[Array, "samples height width 3"]
Features = Float[Array, "samples features"]
Variables = dict[str, Any]


@dataclass(frozen=True)
class Preprocess:
    """From stored images to the network's inputs: (x/255 − mean)/std at the network's size.

    Attributes:
        size: height and width in pixels; images of another size are resized (bilinear, Pillow).
        mean: per channel, of x/255.
        std: per channel, of x/255.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: UInt8[np.ndarray, "samples height width channels"]) -> np.ndarray:
        """Float32 inputs, shape (samples, size, size, 3); grey images are repeated over channels.

        Raises:
            ValueError: images that are not uint8, or not NHWC with 1 or 3 channels.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            msg = (
                f"images: got {images.dtype} {images.shape}; "
                "expected uint8 (samples, height, width, 1 or 3)"
            )
            raise ValueError(msg)
        images = np.broadcast_to(images, (*images.shape[:3], 3))
        if images.shape[1:3] != (self.size, self.size):
            side = (self.size, self.size)
            resized = [
                Image.fromarray(np.ascontiguousarray(image)).resize(side, Image.Resampling.BILINEAR)
                for image in images
            ]
            images = np.stack([np.asarray(image) for image in resized])
        scaled = images.astype(np.float32) / 255
        return (scaled - np.float32(self.mean)) / np.float32(self.std)


@dataclass(frozen=True)
class Backbone:
    """A pretrained network, ready for `Network.from_linen(module, variables, head="head")`.

    Attributes:
        module: maps normalised images to logits; `module.body` maps them to features.
        variables: `params` (with `body` and `head`) and, with BatchNorm, `batch_stats`.
        preprocess: uint8 images to what the module takes.
        source: repository of the weights.
        licence: of the weights, as an SPDX identifier.
    """

    module: nn.Module
    variables: Variables
    preprocess: Preprocess
    source: str
    licence: str

    @property
    def body(self) -> Variables:
        """The variables of `module.body`."""
        return {collection: tree["body"] for collection, tree in self.variables.items()}


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


def read_mcunet(weights: Path) -> MCUNet:
    """The body of MCUNet, from its description and the shapes of its weights."""
    described = json.loads(_existing(weights / "mcunet-5fps_arch.json").read_text())
    arrays = _read(weights / "mcunet-5fps_imagenet128_dequant.npz")

    def convolution(step: dict[str, Any]) -> Convolution:
        channels, _, size, _ = arrays[f"{step['name']}.weight"].shape
        name, limits = _plain(step["name"]), (step["lo"], step["hi"])
        return Convolution(name, channels, size, step["stride"], step["groups"], limits)

    blocks = []
    for item in described:
        if item["kind"] == "gap":  # the classifier follows
            break
        residual = item.get("residual")
        limits = (residual["lo"], residual["hi"]) if residual else None
        steps = item["ops"] if item["kind"] == "block" else [item]
        blocks.append(Block(tuple(convolution(step) for step in steps), limits))
    return MCUNet(tuple(blocks))


@dataclass(frozen=True)
class Entry:
    """What is known of a stored network.

    Attributes:
        file: in the folder of weights.
        body: builds the body, given that folder.
        preprocess: at the size it was verified at.
        source: repository of the weights.
        licence: of the weights.
        prefix: of all names in the file.
        head: name of its dense layer in the file, or None where it has none.
        dropped: names in the file that belong to neither body nor head.
    """

    file: str
    body: Callable[[Path], nn.Module]
    preprocess: Preprocess
    source: str
    licence: str
    prefix: str = ""
    head: str | None = None
    dropped: tuple[str, ...] = ()


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_AKAMASTER = "akamaster/pytorch_resnet_cifar10"
_WEBML = "webmachinelearning test data"

ENTRIES = {
    "resnet8": Entry(
        file="resnet8_cifar10_keras.npz",
        body=lambda _: KerasResNet8(),
        preprocess=Preprocess(32, 3 * (0.0,), 3 * (1 / 255,)),
        source="mlcommons/tiny",
        licence="Apache-2.0",
        head="dense",
    ),
    "resnet20": Entry(
        file="resnet20_cifar10.npz",
        body=lambda _: CifarResNet(blocks=3),
        preprocess=Preprocess(32, *_IMAGENET),
        source=_AKAMASTER,
        licence="BSD-2-Clause",
        head="linear",
    ),
    "resnet56": Entry(
        file="resnet56_cifar10.npz",
        body=lambda _: CifarResNet(blocks=9),
        preprocess=Preprocess(32, *_IMAGENET),
        source=_AKAMASTER,
        licence="BSD-2-Clause",
        head="linear",
    ),
    "mcunet": Entry(
        file="mcunet-5fps_imagenet128_dequant.npz",
        body=read_mcunet,
        preprocess=Preprocess(128, 3 * (0.5,), 3 * (0.5,)),
        source="mit-han-lab/tiny-training",
        licence="MIT",
        head="classifier",
    ),
    "squeezenet1.1": Entry(
        file="squeezenet1_1.npz",
        body=lambda _: SqueezeNet(),
        preprocess=Preprocess(128, *_IMAGENET),
        source=_WEBML,
        licence="Apache-2.0",
        prefix="squeezenet0_",
        dropped=("conv25",),  # ReLU comes between it and the mean: not affine in the features
    ),
    "mobilenetv2": Entry(
        file="mobilenetv2_1.0_bn_backbone.npz",
        body=lambda _: MobileNetV2(),
        preprocess=Preprocess(128, *_IMAGENET),
        source=_WEBML,
        licence="Apache-2.0",
        prefix="mobilenetv20_features_",
    ),
    "resnet50v2": Entry(
        file="resnet50v2_stages1-3_bn.npz",
        body=lambda _: ResNet50V2(),
        preprocess=Preprocess(128, *_IMAGENET),
        source=_WEBML,
        licence="Apache-2.0",
        prefix="resnetv24_",
    ),
}


def data_folder() -> Path:
    """Where the data lies: `NTKPREDICT_DATA`, or `../shared/data` beside the repository."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return Path(os.environ.get("NTKPREDICT_DATA") or default)


def load_backbone(
    name: str,
    outputs: int | None = None,
    seed: int = 0,
    head_scale: str | float = "lecun",
    *,
    folder: Path | None = None,
) -> Backbone:
    """A pretrained network with a new head, or with its own.

    Args:
        name: one of `ENTRIES`.
        outputs: number of classes of a new head; None keeps the network's own head.
        seed: of the new head's kernel (its bias is zero).
        head_scale: of the new head's kernel: ``"lecun"`` (normal, variance 1 / features),
            ``"zero"``, or a multiple of ``"lecun"``.
        folder: the data folder, by default `data_folder()`.

    Raises:
        ValueError: unknown name or scale, `outputs` below 1, or None where there is no own head;
            a file that does not fit the network.
        FileNotFoundError: no data there.
    """
    entry, factor = _entry(name), _factor(head_scale)
    weights = (folder or data_folder()) / "weights"
    arrays = _read(weights / entry.file)
    layers, own_head = _convert(arrays, entry)
    body = entry.body(weights)
    side = entry.preprocess.size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    expected = jax.eval_shape(body.init, jax.random.key(0), images)
    _require_same(entry.file, layers, expected)
    if outputs is None:
        if own_head is None:
            msg = f"outputs: got None, but {name} has no dense head of its own; give a number"
            raise ValueError(msg)
        head = own_head
    else:
        if outputs < 1:
            msg = f"outputs: got {outputs}; expected a positive integer"
            raise ValueError(msg)
        features = jax.eval_shape(body.apply, expected, images).shape[-1]
        kernel = nn.initializers.lecun_normal()(jax.random.key(seed), (features, outputs))
        head = {"kernel": factor * kernel, "bias": jnp.zeros(outputs)}
    module = Classifier(body, outputs=len(head["bias"]))
    variables: Variables = {collection: {"body": tree} for collection, tree in layers.items()}
    variables["params"]["head"] = head
    return Backbone(module, variables, entry.preprocess, entry.source, entry.licence)


def _entry(name: str) -> Entry:
    if name not in ENTRIES:
        msg = f"name: got {name!r}; expected one of {', '.join(ENTRIES)}"
        raise ValueError(msg)
    return ENTRIES[name]


def _factor(scale: str | float) -> float:
    named = {"lecun": 1.0, "zero": 0.0}
    factor = named.get(scale, -1.0) if isinstance(scale, str) else float(scale)
    if not 0 <= factor < np.inf:
        msg = f"head_scale: got {scale!r}; expected 'lecun', 'zero' or a number of at least 0"
        raise ValueError(msg)
    return factor


def _existing(path: Path) -> Path:
    if not path.is_file():
        msg = f"{path} is not there; set NTKPREDICT_DATA to the folder that holds weights/"
        raise FileNotFoundError(msg)
    return path


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(_existing(path), allow_pickle=False) as file:
        return dict(file)


_LEAF = re.compile(
    r"(?P<layer>.+)[._/](?P<leaf>weight|kernel|bias|gamma|beta|(running|moving)_(mean|var\w*))"
)
_LEAVES = {"gamma": "scale", "beta": "bias", "bias": "bias", "kernel": "kernel"}


def _convert(
    arrays: dict[str, np.ndarray], entry: Entry
) -> tuple[Variables, dict[str, Array] | None]:
    """Variables of the body, and the own head, if any, from the arrays as their source has them."""
    flat, head = {}, {}
    for path, array in arrays.items():
        match = _LEAF.fullmatch(path)
        if match is None:
            msg = f"{entry.file}: {path!r} is not the name of a parameter"
            raise ValueError(msg)
        layer, leaf = match["layer"].removeprefix(entry.prefix), match["leaf"]
        if layer in entry.dropped:
            continue
        collection, leaf, value = _leaf(leaf, array)
        if layer == entry.head:  # a 1×1 convolution of pooled features is a dense layer
            head[leaf] = value[0, 0] if value.ndim == 4 else value
        else:
            flat[collection, _plain(layer), leaf] = value
    return traverse_util.unflatten_dict(flat), head or None


def _leaf(leaf: str, array: np.ndarray) -> tuple[str, str, Array]:
    """Collection, name and array in the layout of Flax; torch and MXNet have outputs first."""
    value = jnp.asarray(array)
    if leaf.startswith(("running_", "moving_")):
        return "batch_stats", "mean" if leaf.endswith("mean") else "var", value
    if leaf != "weight":
        return "params", _LEAVES[leaf], value
    if value.ndim == 1:
        return "params", "scale", value
    return "params", "kernel", value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)


def _plain(layer: str) -> str:
    return layer.replace(".", "_")


def _require_same(file: str, layers: Variables, expected: Variables) -> None:
    got, wanted = (
        {(path, leaf.shape) for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}
        for tree in (layers, expected)
    )
    if got != wanted:
        missing, left = sorted(wanted - got)[:3], sorted(got - wanted)[:3]
        msg = f"{file}: does not fit the network; missing {missing}, left over {left}"
        raise ValueError(msg)
