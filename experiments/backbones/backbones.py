"""Real pretrained networks, rebuilt in Flax Linen from the arrays in the data folder.

backbone = load_backbone("resnet20", outputs=5, seed=0, head_scale=0.1)
network = Network.from_linen(backbone.module, backbone.variables, head="head")
inputs = backbone.preprocess(images)  # uint8, NHWC
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import UInt8
from networks import (
    Block,
    CifarResNet,
    Classifier,
    Convolution,
    KerasResNet8,
    MCUNet,
    MobileNetV2,
    ResNet50V2,
    SqueezeNet,
)
from PIL import Image
from weights import Variables, Weights, data_folder, existing, plain, read


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


def read_mcunet(weights: Path) -> MCUNet:
    """The body of MCUNet, from its description and the shapes of its weights."""
    described = json.loads(existing(weights / "mcunet-5fps_arch.json").read_text())
    arrays = read(weights / "mcunet-5fps_imagenet128_dequant.npz")

    def convolution(step: dict[str, Any]) -> Convolution:
        channels, _, size, _ = arrays[f"{step['name']}.weight"].shape
        name, limits = plain(step["name"]), (step["lo"], step["hi"])
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
        weights: where they are stored.
        body: builds the body, given the folder of weights.
        preprocess: at the size it was verified at.
        source: repository of the weights.
        licence: of the weights.
    """

    weights: Weights
    body: Callable[[Path], nn.Module]
    preprocess: Preprocess
    source: str
    licence: str


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_AKAMASTER = "akamaster/pytorch_resnet_cifar10"
_WEBML = "webmachinelearning test data"

ENTRIES = {
    "resnet8": Entry(
        weights=Weights("resnet8_cifar10_keras.npz", head="dense"),
        body=lambda _: KerasResNet8(),
        preprocess=Preprocess(32, 3 * (0.0,), 3 * (1 / 255,)),
        source="mlcommons/tiny",
        licence="Apache-2.0",
    ),
    "resnet20": Entry(
        weights=Weights("resnet20_cifar10.npz", head="linear"),
        body=lambda _: CifarResNet(blocks=3),
        preprocess=Preprocess(32, *_IMAGENET),
        source=_AKAMASTER,
        licence="BSD-2-Clause",
    ),
    "resnet56": Entry(
        weights=Weights("resnet56_cifar10.npz", head="linear"),
        body=lambda _: CifarResNet(blocks=9),
        preprocess=Preprocess(32, *_IMAGENET),
        source=_AKAMASTER,
        licence="BSD-2-Clause",
    ),
    "mcunet": Entry(
        weights=Weights("mcunet-5fps_imagenet128_dequant.npz", head="classifier"),
        body=read_mcunet,
        preprocess=Preprocess(128, 3 * (0.5,), 3 * (0.5,)),
        source="mit-han-lab/tiny-training",
        licence="MIT",
    ),
    "squeezenet1.1": Entry(
        weights=Weights(
            "squeezenet1_1.npz",
            prefix="squeezenet0_",
            dropped=("conv25",),  # ReLU comes between it and the mean: not affine in the features
        ),
        body=lambda _: SqueezeNet(),
        preprocess=Preprocess(128, *_IMAGENET),
        source=_WEBML,
        licence="Apache-2.0",
    ),
    "mobilenetv2": Entry(
        weights=Weights("mobilenetv2_1.0_bn_backbone.npz", prefix="mobilenetv20_features_"),
        body=lambda _: MobileNetV2(),
        preprocess=Preprocess(128, *_IMAGENET),
        source=_WEBML,
        licence="Apache-2.0",
    ),
    "resnet50v2": Entry(
        weights=Weights("resnet50v2_stages1-3_bn.npz", prefix="resnetv24_"),
        body=lambda _: ResNet50V2(),
        preprocess=Preprocess(128, *_IMAGENET),
        source=_WEBML,
        licence="Apache-2.0",
    ),
}


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
    layers, own_head = entry.weights.load(weights)
    body = entry.body(weights)
    side = entry.preprocess.size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    expected = jax.eval_shape(body.init, jax.random.key(0), images)
    entry.weights.require_same(layers, expected)
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
