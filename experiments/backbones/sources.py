"""Real images and their labels, as uint8 NHWC, from the arrays in the data folder."""

import gzip
import io
from collections.abc import Callable, Iterable
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image
from scipy import signal
from weights import data_folder

Arrays = dict[str, np.ndarray]
Examples = tuple[UInt8[np.ndarray, "samples height width channels"], Int[np.ndarray, " samples"]]


@lru_cache
def load_images(name: str) -> Examples:
    """Images and labels of one of `SOURCES`, in the order of their file.

    Raises:
        KeyError: another name.
        FileNotFoundError: no data there.
    """
    return SOURCES[name]()


def arrays(name: str) -> Arrays:
    """The arrays of a file in the data folder."""
    with np.load(data_folder() / "datasets" / name, allow_pickle=False) as file:
        return dict(file)


def photos(stored: Arrays, chosen: Iterable[int]) -> UInt8[np.ndarray, "chosen height width 3"]:
    """Some of the JPEG photos of a file, decoded."""
    jpeg, offsets = stored["jpeg"], stored["offsets"]
    coded = (jpeg[offsets[i] : offsets[i + 1]].tobytes() for i in chosen)
    return np.stack([np.asarray(Image.open(io.BytesIO(code)).convert("RGB")) for code in coded])


def _stored(file: str, part: str) -> Examples:
    found = arrays(file)
    images = found[f"x_{part}"]
    return images if images.ndim == 4 else images[..., None], found[f"y_{part}"]


def _mnist() -> Examples:
    folder = data_folder() / "datasets" / "mnist"
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images, labels


def _clothing() -> Examples:
    found = arrays("clothing10_96_jpeg.npz")
    return photos(found, range(len(found["y"]))), found["y"]


def _fsdd() -> Examples:
    """Spoken digits as grey pictures of their log spectrograms, frequency upwards."""
    found, pictures = arrays("fsdd_8k_takes0-24.npz"), []
    for wave in np.split(found["pcm"].astype(np.float32), found["offsets"][1:-1]):
        power = signal.spectrogram(wave, 8000, nperseg=256, noverlap=192)[2]
        level = np.clip(np.log10(power + 1e-3), -1, 5)[::-1]
        grey = Image.fromarray(((level + 1) / 6 * 255).astype(np.uint8))
        pictures.append(np.asarray(grey.resize((64, 64), Image.Resampling.BILINEAR)))
    return np.stack(pictures)[..., None], found["y"]


SOURCES: dict[str, Callable[[], Examples]] = {
    # Test images, which the CIFAR networks were not pretrained on; the others are new to the
    # ImageNet networks only.
    "cifar10": partial(_stored, "cifar10_lossless_4k1k.npz", "test"),
    "cifar10-seen": partial(_stored, "cifar10_lossless_4k1k.npz", "train"),
    "fashion": partial(_stored, "fashion_12k3k.npz", "train"),
    "mnist": _mnist,
    "gtsrb": partial(_stored, "gtsrb32_4k1k.npz", "train"),
    "clothing": _clothing,
    "fsdd": _fsdd,
}
