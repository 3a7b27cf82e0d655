"""The tasks of the suite: which network is fine-tuned on what, and how.

network, data, plan = CASES["resnet20-cifar10-sgd-0.001-32-s0"].load()
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optax

import ntkpredict as ntp
from ntkpredict.data import take
from ntkpredict.embedded import load_network

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))
from backbones import load_backbone
from sources import load_images

Distance = Literal["near", "medium", "far"]
Split = Literal["development", "held-out"]


@dataclass(frozen=True)
class Task:
    """A pretrained network, a data set and how they are put together.

    Attributes:
        network: see `experiments/backbones`, or ``"embedded"``, the default of the package.
        data: see `load_images`, or ``"digits"`` with the embedded network.
        distance: of the data from what the network was pretrained on.
        split: of the suite.
        samples: training samples.
        validation: validation samples.
        classes: the labels in use, increasing; they become 0, 1, ….
        size: pixels to a side of the network's input.
        head: scale of the fresh head, times LeCun's, or ``"zero"``.
        trainable: patterns of the parameters that train; all where empty.
        loss: what is minimised.
    """

    network: str
    data: str
    distance: Distance
    split: Split
    samples: int
    validation: int
    classes: tuple[int, ...] = tuple(range(10))
    size: int = 32
    head: str | float = "lecun"
    trainable: tuple[str, ...] = ()
    loss: str = "cross_entropy"


@dataclass(frozen=True)
class Case:
    """One training run.

    Attributes:
        task: what is trained on what.
        optimizer: ``"sgd"`` (momentum 0.9) or ``"adamw"`` (weight decay 0.01).
        lr: peak learning rate.
        batch_size: samples per step.
        max_steps: the budget.
        schedule: ``"constant"``, ``"cosine"`` to 0 or ``"warmup"``: linear over a tenth of the
            budget, then cosine.
        seed: of the head and of the minibatch order.
    """

    task: str
    optimizer: Literal["sgd", "adamw"]
    lr: float
    batch_size: int
    max_steps: int
    schedule: Literal["constant", "cosine", "warmup"] = "constant"
    seed: int = 0

    @property
    def key(self) -> str:
        """Its name, also that of its files."""
        schedule = "" if self.schedule == "constant" else f"-{self.schedule}"
        return f"{self.task}-{self.optimizer}-{self.lr:g}-{self.batch_size}{schedule}-s{self.seed}"

    def load(self) -> tuple[ntp.Network, ntp.Data, ntp.Plan]:
        """What `ntp.predict` and `ntp.train` take."""
        task = TASKS[self.task]
        if task.network == "embedded":
            digits = ntp.load_data("digits")
            few = (
                take(split, slice(count))
                for split, count in (
                    (digits.train, task.samples),
                    (digits.validation, task.validation),
                )
            )
            return load_network(seed=self.seed), ntp.Data(*few, name="digits"), self._plan(task)
        classes = len(task.classes)
        backbone = load_backbone(task.network, classes, seed=self.seed, head_scale=task.head)
        network = ntp.Network.from_linen(
            backbone.module,
            backbone.variables,
            head="head",
            trainable=list(task.trainable) or None,
            name=task.network,
        )
        preprocess = replace(backbone.preprocess, size=task.size)
        images, labels = _chosen(task)
        inputs, n = preprocess(images), task.samples
        data = ntp.Data(
            train=(inputs[:n], labels[:n]), validation=(inputs[n:], labels[n:]), name=task.data
        )
        return network, data, self._plan(task)

    def _plan(self, task: Task) -> ntp.Plan:
        rate: Any = self.lr
        if self.schedule == "cosine":
            rate = optax.cosine_decay_schedule(self.lr, self.max_steps)
        elif self.schedule == "warmup":
            warmup = self.max_steps // 10
            rate = optax.warmup_cosine_decay_schedule(0.0, self.lr, warmup, self.max_steps)
        optimizers = {
            "sgd": lambda: optax.sgd(rate, momentum=0.9),
            "adamw": lambda: optax.adamw(rate, weight_decay=0.01),
        }
        name = f"{self.optimizer}, lr {self.lr:g}, {self.schedule}"
        return ntp.Plan(
            optimizers[self.optimizer](),
            self.batch_size,
            self.max_steps,
            task.loss,
            self.seed,
            name,
        )


def _chosen(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a task, training samples first, in an order that never changes."""
    images, labels = load_images(task.data)
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.isin(labels[order], task.classes)][: task.samples + task.validation]
    if len(order) < task.samples + task.validation:
        raise ValueError(f"{task.data}: {len(order)} samples of {task.classes}; too few")
    return images[order], np.searchsorted(task.classes, labels[order])


_TEN = (1, 2, 4, 5, 7, 10, 12, 13, 25, 38)
_ALL = tuple(range(43))
_TWENTY = (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 25, 28, 31, 35, 38)
"""The ten and the twenty most frequent traffic signs, and all."""

TASKS = {
    # Development.
    "resnet20-cifar10": Task("resnet20", "cifar10", "near", "development", 750, 250),
    "resnet20-cifar10-norms": Task(
        "resnet20", "cifar10", "near", "development", 750, 250, trainable=("*bn*", "head/*")
    ),
    "resnet20-cifar10-squares": Task(
        "resnet20", "cifar10", "near", "development", 750, 250, head=0.1, loss="squared_error"
    ),
    "resnet20-cifar5": Task(
        "resnet20", "cifar10", "near", "development", 350, 120, (0, 1, 2, 3, 4), head=0.02
    ),
    "resnet20-fashion": Task("resnet20", "fashion", "medium", "development", 1000, 300),
    "resnet20-fashion-zero": Task(
        "resnet20", "fashion", "medium", "development", 3000, 300, head="zero"
    ),
    "resnet20-fashion-late": Task(
        "resnet20", "fashion", "medium", "development", 1000, 300,
        trainable=("*layer3*", "head/*"),
    ),
    "resnet20-fashion2": Task(
        "resnet20", "fashion", "medium", "development", 300, 200, (0, 6), head=0.1
    ),
    "resnet20-mnist": Task("resnet20", "mnist", "far", "development", 1000, 300),
    "squeezenet-clothing": Task(
        "squeezenet1.1", "clothing", "near", "development", 1000, 300, size=64
    ),
    "squeezenet-cifar10": Task(
        "squeezenet1.1", "cifar10-seen", "medium", "development", 3600, 300, size=48, head=0.02
    ),
    "squeezenet-mnist": Task(
        "squeezenet1.1", "mnist", "far", "development", 1000, 300, size=48, head="zero"
    ),
    # Held out at first, and looked at in sum; since then for development too.
    "resnet8-cifar10": Task("resnet8", "cifar10", "near", "development", 750, 250),
    "resnet8-gtsrb20": Task(
        "resnet8", "gtsrb", "medium", "development", 2000, 300, _TWENTY, head="zero"
    ),
    "resnet8-gtsrb20-late": Task(
        "resnet8", "gtsrb", "medium", "development", 2000, 300, _TWENTY,
        trainable=("*conv2d_[678]/*", "*batch_normalization_[56]/*", "head/*"),
    ),
    "resnet8-fashion": Task("resnet8", "fashion", "medium", "development", 5000, 300, head=0.02),
    "resnet8-fsdd": Task("resnet8", "fsdd", "far", "development", 1000, 300),
    # Held out: a network, or a network on this data, that development never saw.
    "resnet56-cifar10": Task("resnet56", "cifar10", "near", "held-out", 750, 250),
    "resnet56-cifar5-squares": Task(
        "resnet56", "cifar10", "near", "held-out", 350, 120, (5, 6, 7, 8, 9),
        head=0.1, loss="squared_error",
    ),
    "resnet56-gtsrb10": Task(
        "resnet56", "gtsrb", "medium", "held-out", 1000, 300, _TEN, head=0.1
    ),
    "resnet50-clothing": Task("resnet50v2", "clothing", "near", "held-out", 800, 200, size=64),
    "mobilenet-clothing": Task("mobilenetv2", "clothing", "near", "held-out", 500, 200, size=64),
    "mcunet-clothing": Task(
        "mcunet", "clothing", "near", "held-out", 800, 200, size=64, head=0.02
    ),
    "resnet20-gtsrb43": Task(
        "resnet20", "gtsrb", "medium", "held-out", 3000, 300, _ALL, head=0.1
    ),
    "resnet20-fsdd": Task("resnet20", "fsdd", "far", "held-out", 1000, 300),
    "squeezenet-gtsrb20": Task(
        "squeezenet1.1", "gtsrb", "medium", "held-out", 2000, 300, _TWENTY, size=48
    ),
    "squeezenet-fsdd": Task("squeezenet1.1", "fsdd", "far", "held-out", 1000, 300, size=64),
    # A small one, whose data is always there.
    "digits": Task("embedded", "digits", "near", "development", 64, 16),
}  # fmt: skip

CASES = {
    case.key: case
    for case in (
        # Development.
        Case("resnet20-cifar10", "sgd", 1e-3, 32, 320),
        Case("resnet20-cifar10", "sgd", 1e-3, 32, 320, seed=1),
        Case("resnet20-cifar10", "adamw", 1e-4, 32, 320),
        Case("resnet20-cifar10", "adamw", 1e-4, 32, 320, seed=1),
        Case("resnet20-cifar10", "sgd", 1e-2, 64, 160, "cosine"),
        Case("resnet20-cifar10", "sgd", 1e-1, 32, 200),
        Case("resnet20-cifar10", "adamw", 1e-3, 32, 200, "warmup"),
        Case("resnet20-cifar10-norms", "sgd", 1e-2, 32, 300),
        Case("resnet20-cifar10-norms", "adamw", 1e-3, 32, 300),
        Case("resnet20-cifar10-squares", "sgd", 1e-3, 32, 320),
        Case("resnet20-cifar10-squares", "adamw", 1e-4, 32, 320),
        Case("resnet20-cifar5", "sgd", 1e-3, 16, 500),
        Case("resnet20-cifar5", "sgd", 3e-3, 16, 400, seed=1),
        Case("resnet20-cifar5", "adamw", 3e-4, 16, 400, "warmup"),
        Case("resnet20-fashion", "sgd", 1e-3, 32, 400),
        Case("resnet20-fashion", "sgd", 1e-3, 32, 400, seed=1),
        Case("resnet20-fashion", "sgd", 3e-3, 128, 100, "cosine"),
        Case("resnet20-fashion", "sgd", 1e-4, 32, 3000),
        Case("resnet20-fashion", "sgd", 1e-2, 32, 300, "warmup"),
        Case("resnet20-fashion", "adamw", 1e-4, 32, 400),
        Case("resnet20-fashion", "adamw", 1e-4, 32, 400, seed=1),
        Case("resnet20-fashion", "adamw", 1e-3, 64, 160, "cosine"),
        Case("resnet20-fashion-zero", "sgd", 3e-3, 32, 400),
        Case("resnet20-fashion-zero", "adamw", 3e-4, 64, 200),
        Case("resnet20-fashion-late", "sgd", 3e-3, 32, 400),
        Case("resnet20-fashion-late", "adamw", 3e-4, 32, 400),
        Case("resnet20-fashion2", "sgd", 3e-3, 16, 500),
        Case("resnet20-fashion2", "adamw", 3e-4, 16, 500, seed=1),
        Case("resnet20-mnist", "sgd", 1e-3, 32, 400),
        Case("resnet20-mnist", "sgd", 1e-3, 32, 400, seed=1),
        Case("resnet20-mnist", "sgd", 3e-3, 64, 200),
        Case("resnet20-mnist", "adamw", 3e-4, 32, 300),
        Case("squeezenet-clothing", "sgd", 1e-3, 32, 400),
        Case("squeezenet-clothing", "sgd", 1e-3, 32, 400, seed=1),
        Case("squeezenet-clothing", "adamw", 1e-4, 32, 400),
        Case("squeezenet-cifar10", "sgd", 3e-3, 64, 250),
        Case("squeezenet-cifar10", "adamw", 1e-4, 64, 250, "cosine"),
        Case("squeezenet-mnist", "sgd", 3e-3, 32, 400),
        Case("squeezenet-mnist", "adamw", 1e-4, 32, 400),
        Case("resnet8-cifar10", "sgd", 1e-3, 32, 800),
        Case("resnet8-cifar10", "sgd", 1e-3, 32, 800, seed=1),
        Case("resnet8-cifar10", "adamw", 3e-4, 32, 800),
        Case("resnet8-cifar10", "adamw", 3e-4, 32, 800, seed=1),
        Case("resnet8-cifar10", "sgd", 1e-1, 32, 400),
        Case("resnet8-cifar10", "sgd", 3e-3, 256, 120, "cosine"),
        Case("resnet8-gtsrb20", "sgd", 3e-3, 32, 800),
        Case("resnet8-gtsrb20", "sgd", 3e-3, 32, 800, seed=1),
        Case("resnet8-gtsrb20", "sgd", 3e-4, 32, 4000),
        Case("resnet8-gtsrb20", "adamw", 3e-4, 64, 400, "warmup"),
        Case("resnet8-gtsrb20", "adamw", 3e-5, 32, 3000),
        Case("resnet8-gtsrb20-late", "sgd", 1e-2, 32, 600, "cosine"),
        Case("resnet8-gtsrb20-late", "adamw", 1e-3, 32, 600),
        Case("resnet8-fashion", "sgd", 3e-3, 64, 600),
        Case("resnet8-fashion", "adamw", 1e-4, 64, 600),
        Case("resnet8-fsdd", "sgd", 1e-3, 32, 800),
        Case("resnet8-fsdd", "adamw", 3e-4, 32, 800),
        Case("resnet8-fsdd", "adamw", 3e-4, 32, 800, seed=1),
        # Held out.
        Case("resnet56-cifar10", "sgd", 1e-3, 16, 300),
        Case("resnet56-cifar10", "adamw", 1e-4, 16, 300),
        Case("resnet56-cifar5-squares", "sgd", 1e-3, 16, 300),
        Case("resnet56-gtsrb10", "sgd", 1e-3, 16, 400),
        Case("resnet56-gtsrb10", "adamw", 1e-4, 16, 400),
        Case("resnet20-gtsrb43", "sgd", 3e-3, 32, 800),
        Case("resnet20-gtsrb43", "adamw", 3e-4, 64, 400),
        Case("resnet20-fsdd", "sgd", 3e-3, 32, 400),
        Case("resnet20-fsdd", "adamw", 3e-4, 32, 400),
        Case("resnet50-clothing", "sgd", 1e-3, 16, 160),
        Case("resnet50-clothing", "adamw", 1e-4, 16, 160),
        Case("mobilenet-clothing", "sgd", 1e-2, 16, 120),
        Case("mcunet-clothing", "sgd", 1e-3, 16, 200),
        Case("mcunet-clothing", "adamw", 1e-4, 16, 200),
        Case("squeezenet-gtsrb20", "sgd", 1e-3, 32, 500),
        Case("squeezenet-gtsrb20", "adamw", 1e-4, 32, 500),
        Case("squeezenet-gtsrb20", "adamw", 1e-4, 32, 500, seed=1),
        Case("squeezenet-fsdd", "sgd", 1e-3, 32, 500),
        Case("squeezenet-fsdd", "sgd", 1e-3, 32, 500, seed=1),
        Case("squeezenet-fsdd", "adamw", 1e-4, 32, 500, "warmup"),
    )
}
"""The runs, by key."""

SMOKE = {case.key: case for case in (Case("digits", "sgd", 3e-3, 16, 20),)}
"""Runs in seconds."""
