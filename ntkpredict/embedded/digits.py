"""The embedded data set: the UCI handwritten digits that scikit-learn ships, as a TFDS builder.

Importing this module registers the builder:

    train = tfds.data_source("digits", split="train", data_dir="data")
    train[0]["image"], train[0]["label"]

Preparation downloads nothing and, like reading, does without TensorFlow.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

_TRAIN_SAMPLES = 1000
_SPLIT_SEED = 0
_LARGEST_VALUE = 16  # on-pixels in a block of 4×4

_DESCRIPTION = """\
1,797 handwritten digits of 13 writers, 8×8 pixels. Each pixel counts the on-pixels in a 4×4 block
of a 32×32 bitmap (0..16), here scaled to 0..255. This is the test part of the UCI data set
"Optical Recognition of Handwritten Digits", as shipped with scikit-learn, split into 1,000 samples
for training and 797 for testing by a fixed shuffle that keeps the share of each class. Writers
occur in both splits."""

_CITATION = """\
@misc{alpaydin1998digits,
  author = {Alpaydin, E. and Kaynak, C.},
  title  = {Optical Recognition of Handwritten Digits},
  year   = {1998},
  note   = {UCI Machine Learning Repository},
  doi    = {10.24432/C50P49},
}"""


class Digits(tfds.core.GeneratorBasedBuilder):
    """UCI handwritten digits: `image` uint8 (8, 8, 1) in 0..255, `label` 0..9."""

    VERSION = tfds.core.Version("1.0.0")
    # Set here because TFDS finds it through importlib_resources, which it does not install.
    code_path = tfds.core.Path(__file__)
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS reads a plain dict)

    def __init__(self, *, file_format: str = "array_record", **kwargs: Any) -> None:
        """Build for random access by default, which `tfds.data_source` needs.

        Args:
            file_format: format of the record files.
            **kwargs: passed on to TFDS, such as `data_dir`.
        """
        super().__init__(file_format=file_format, **kwargs)

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Write the data set, unless it is there, silently; several processes may do so at once.

        Args:
            **kwargs: passed on to TFDS.
        """
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # nothing is downloaded
                super().download_and_prepare(**kwargs)
        except OSError:
            # TFDS renames a finished temporary folder, which fails where another process was first.
            if not self.is_prepared():
                raise
            self.info.read_from_directory(self.data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=_CITATION,
            license="CC BY 4.0",
        )

    def _split_generators(
        self,
        dl_manager: tfds.download.DownloadManager,  # noqa: ARG002 (nothing to download)
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        values, labels = load_digits(return_X_y=True)
        pixels = np.rint(values.reshape(-1, 8, 8) * (255 / _LARGEST_VALUE)).astype(np.uint8)
        train, test = train_test_split(
            np.arange(len(labels)),
            train_size=_TRAIN_SAMPLES,
            random_state=_SPLIT_SEED,
            stratify=labels,
        )
        return {
            "train": self._generate_examples(pixels, labels, train),
            "test": self._generate_examples(pixels, labels, test),
        }

    def _generate_examples(
        self,
        pixels: UInt8[np.ndarray, "all 8 8"],
        labels: np.ndarray,
        chosen: np.ndarray,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in chosen.tolist():
            # TFDS encodes a Pillow image without TensorFlow, an array only with it.
            image = Image.fromarray(pixels[index])
            yield index, {"image": image, "label": int(labels[index])}
