"""Pretrain the embedded network on MNIST shrunk to 8×8 pixels, and measure what it learned.

Writes the body to `ntkpredict/embedded/weights.npz` and `results.json`, `figure.png` beside this
file. About four minutes on two CPU cores.
"""

import gzip
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow_datasets as tfds
from flax import traverse_util
from matplotlib.figure import Figure
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ntkpredict.embedded.digits import Digits
from ntkpredict.embedded.network import ResidualNetwork

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WEIGHTS = ROOT / "ntkpredict" / "embedded" / "weights.npz"
DATA = Path(os.environ.get("NTKPREDICT_DATA", ROOT.parent / "shared" / "data"))
PACKAGES = ("jax", "flax", "optax", "numpy", "scikit-learn", "tensorflow-datasets", "pillow")


@dataclass(frozen=True)
class Config:
    """Settings of the experiment; every one is recorded in results.json."""

    seed: int = 0
    variants: int = 4  # augmented copies of each training image
    extra_train_samples: int = 5000  # of MNIST's test files; the rest is held out
    epochs: int = 4  # over all variants
    batch_size: int = 128
    peak_learning_rate: float = 3e-3  # AdamW; linear warm-up, then cosine to zero
    warmup_steps: int = 100
    weight_decay: float = 1e-2
    tune_learning_rates: tuple[float, ...] = (3e-3, 1e-2)
    tune_momentum: float = 0.9
    tune_batch_size: int = 32
    tune_seeds: tuple[int, ...] = (0, 1, 2)  # of head, sample order, random bodies
    tune_record_steps: tuple[int, ...] = (0, 10, 30, 100, 200, 300, 500)


class Samples(NamedTuple):
    """Labelled images.

    Attributes:
        x: shape (samples, 8, 8, 1), float32 in 0..1; as read from MNIST (samples, 28, 28), uint8.
        y: shape (samples,), class 0..9.
    """

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Style:
    """How one 28×28 image becomes an 8×8 one; the defaults look most like the UCI digits.

    Attributes:
        radians: rotation after the slant is removed.
        shear: slant put back, horizontal pixels per vertical pixel.
        threshold: grey value 0..255 from which a pixel is on.
        shift: horizontal shift in pixels of the 32×32 bitmap.
    """

    radians: float = 0.0
    shear: float = 0.0
    threshold: float = 60.0
    shift: int = 0


def read_mnist(folder: Path, extra: int) -> tuple[Samples, Samples]:
    """MNIST for training (12,000 + `extra` of the test files) and the rest of the test files."""
    with np.load(folder / "mnist_train12k.npz", allow_pickle=False) as file:
        train = Samples(file["x"], file["y"])
    pixels = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28)
    y = np.frombuffer(labels, np.uint8, offset=8)
    joined = Samples(np.concatenate([train.x, x[:extra]]), np.concatenate([train.y, y[:extra]]))
    return joined, Samples(x[extra:], y[extra:])


def read_digits() -> tuple[Samples, Samples]:
    """The embedded data set, train and test, through TFDS."""
    with tempfile.TemporaryDirectory() as folder:
        builder = Digits(data_dir=folder)
        builder.download_and_prepare()
        train, test = (list(builder.as_data_source(split)) for split in ("train", "test"))
    return _stacked(train), _stacked(test)


def _stacked(rows: list[dict[str, Any]]) -> Samples:
    x = np.stack([row["image"] for row in rows])
    return Samples(np.float32(x) / 255, np.array([row["label"] for row in rows]))


def slant(image: np.ndarray) -> tuple[float, float]:
    """Horizontal drift per row of the ink (at most 0.8), and the row of its centre of mass."""
    ink = image.astype(np.float64)
    rows, columns = np.mgrid[: ink.shape[0], : ink.shape[1]]
    row, column = (ink * rows).sum() / ink.sum(), (ink * columns).sum() / ink.sum()
    drift = (ink * (rows - row) * (columns - column)).sum() / (ink * (rows - row) ** 2).sum()
    return float(np.clip(drift, -0.8, 0.8)), float(row)


def upright(image: np.ndarray, style: Style) -> np.ndarray:
    """The digit at 112×112 pixels, boolean, its own slant replaced by that of the style."""
    drift, row = slant(image)
    shear = drift - style.shear
    cos, sin = np.cos(style.radians), np.sin(style.radians)
    a, b = cos - shear * sin, sin + shear * cos  # shear after rotation, about the centre (14, row)
    matrix = (a, b, 14 - 14 * a - row * b, -sin, cos, row + 14 * sin - row * cos)
    turned = Image.fromarray(image).transform(
        (28, 28), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(turned.resize((112, 112), Image.Resampling.BILINEAR)) >= style.threshold


def shrink(image: np.ndarray, style: Style) -> np.ndarray:
    """A 28×28 grey image as UCI made its digits: 8×8 shares of on-pixels in blocks of 4×4.

    The upright bounding box fills 32 rows and 12 to 20 columns of a 32×32 bitmap.
    """
    on = upright(image, style)
    rows, columns = np.flatnonzero(on.any(axis=1)), np.flatnonzero(on.any(axis=0))
    box = on[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width = int(np.clip(round(32 * box.shape[1] / box.shape[0]), 12, 20))
    scaled = Image.fromarray(np.uint8(box) * 255).resize((width, 32), Image.Resampling.BOX)
    left = (32 - width) // 2 + style.shift
    bitmap = np.zeros((32, 32))
    bitmap[:, left : left + width] = np.asarray(scaled) >= 128
    return bitmap.reshape(8, 4, 8, 4).mean(axis=(1, 3))


def shrink_all(samples: Samples, styles: list[Style]) -> Samples:
    """Shrink every image in its style."""
    images = [shrink(image, style) for image, style in zip(samples.x, styles, strict=True)]
    return Samples(np.float32(images)[..., None], samples.y)


def augment(samples: Samples, variants: int, rng: np.random.Generator) -> Samples:
    """Shrink each image `variants` times, in random styles."""
    many = Samples(np.repeat(samples.x, variants, axis=0), np.repeat(samples.y, variants))
    styles = [
        Style(*angles, threshold, int(shift))
        for angles, threshold, shift in zip(
            rng.normal(0, 0.1, (len(many.y), 2)),
            rng.uniform(30, 100, len(many.y)),
            rng.integers(-2, 3, len(many.y)),
            strict=True,
        )
    ]
    return shrink_all(many, styles)


def loss(module: ResidualNetwork, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats."""
    logits = module.apply({"params": params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(
    module: ResidualNetwork,
    params: Any,
    optimizer: optax.GradientTransformation,
    samples: Samples,
    order: np.ndarray,
    record_steps: tuple[int, ...] = (),
) -> tuple[Any, list[float]]:
    """Minimise the cross-entropy over minibatches.

    Args:
        module: the network.
        params: its parameters.
        optimizer: any optax optimizer.
        samples: what to train on.
        order: sample indices of each step's minibatch, shape (steps, batch).
        record_steps: after how many steps to evaluate the loss on all samples, ascending.

    Returns:
        The trained parameters, and the losses recorded.
    """

    # One compiled step per call: inside lax.scan XLA runs convolutions five times slower on CPU.
    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        gradient = jax.grad(loss, argnums=1)(module, params, x, y)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    full_loss = jax.jit(lambda params: loss(module, params, samples.x, samples.y))
    state, losses = optimizer.init(params), []
    for done in range(len(order) + 1):
        if done in record_steps:
            losses.append(float(full_loss(params)))
        if done < len(order):
            params, state = step(params, state, samples.x[order[done]], samples.y[order[done]])
    return params, losses


def minibatches(samples: int, batch: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Sample indices, shape (steps, batch): a new shuffle each epoch, its remainder dropped."""
    per_epoch = samples // batch
    epochs = [rng.permutation(samples)[: per_epoch * batch] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(epochs).reshape(-1, batch)[:steps]


def pretrain(config: Config, samples: Samples) -> tuple[ResidualNetwork, Any]:
    """The network trained on the shrunken MNIST."""
    module = ResidualNetwork()
    steps = config.epochs * (len(samples.y) // config.batch_size)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.peak_learning_rate, min(config.warmup_steps, steps // 2), steps
    )
    optimizer = optax.adamw(schedule, weight_decay=config.weight_decay)
    rng = np.random.default_rng(config.seed)
    order = minibatches(len(samples.y), config.batch_size, steps, rng)
    # Never the key of a plain seed: the trained body stays aligned with the head it started with,
    # and a fresh head drawn from the same key would fit the new task before any training.
    start = initialise(module, jax.random.fold_in(jax.random.key(config.seed), 1))
    params, _ = train(module, start, optimizer, samples, order)
    return module, params


def initialise(module: ResidualNetwork, key: jax.Array) -> Any:
    """Fresh parameters of the whole network."""
    return module.init(key, jnp.zeros((1, 8, 8, 1)))["params"]


def random_body(module: ResidualNetwork, seed: int) -> Any:
    """A body that was never trained, as a baseline."""
    return split_head(initialise(module, jax.random.key(seed)))[0]


def halve(body: Any) -> Any:
    """The parameters as the weights file holds them: rounded to float16, used in float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), body)


def split_head(params: Any) -> tuple[Any, Any]:
    """Body and head of the network's parameters."""
    return {name: params[name] for name in params if name != "head"}, params["head"]


def accuracy(module: ResidualNetwork, params: Any, samples: Samples) -> float:
    """Share of samples whose largest logit is that of their class."""
    logits = jax.jit(module.apply)({"params": params}, samples.x)
    return float((np.argmax(logits, axis=1) == samples.y).mean())


def features(module: ResidualNetwork, body: Any, x: np.ndarray) -> np.ndarray:
    """What the head reads, shape (samples, 64): the logits of an identity head."""
    count = module.widths[-1]
    identity = {"kernel": jnp.eye(count), "bias": jnp.zeros(count)}
    wide = module.clone(outputs=count)
    return np.asarray(jax.jit(wide.apply)({"params": {**body, "head": identity}}, x))


def probe(module: ResidualNetwork, body: Any, fit: Samples, held_out: Samples) -> float:
    """Test accuracy of a logistic regression on the standardised features of the frozen body."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(features(module, body, fit.x), fit.y)
    return float(classifier.score(features(module, body, held_out.x), held_out.y))


def fine_tune(
    config: Config, body: Any, rate: float, seed: int, fit: Samples, held_out: Samples
) -> dict[str, Any]:
    """Train body and a fresh head on the digits with momentum SGD; the loss on all of `fit`."""
    module = ResidualNetwork()
    params = {**body, "head": initialise(module, jax.random.key(seed))["head"]}
    rng = np.random.default_rng(seed)
    steps = config.tune_record_steps[-1]
    order = minibatches(len(fit.y), config.tune_batch_size, steps, rng)
    optimizer = optax.sgd(rate, momentum=config.tune_momentum)
    params, losses = train(module, params, optimizer, fit, order, config.tune_record_steps)
    return {
        "learning_rate": rate,
        "seed": seed,
        "train_loss": [round(value, 5) for value in losses],
        "test_accuracy": round(accuracy(module, params, held_out), 4),
    }


def evaluate(
    config: Config, module: ResidualNetwork, params: Any, held_out: Samples
) -> dict[str, Any]:
    """Accuracies, feature scale and fine-tuning curves of the body as the weights file holds it."""
    body, head = split_head(params)
    stored = halve(body)
    fit, test = read_digits()
    pooled = features(module, stored, fit.x)
    return {
        "parameters_body": sum(leaf.size for leaf in jax.tree.leaves(body)),
        "parameters_with_head": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "mnist_held_out_accuracy": {
            "float32": round(accuracy(module, params, held_out), 4),
            "float16": round(accuracy(module, {**stored, "head": head}, held_out), 4),
        },
        "digits_accuracy_without_training": round(
            accuracy(module, {**stored, "head": head}, test), 4
        ),
        "digits_probe_accuracy": {
            "pretrained": round(probe(module, stored, fit, test), 4),
            "random": [
                round(probe(module, random_body(module, seed), fit, test), 4)
                for seed in config.tune_seeds
            ],
        },
        "digits_features": {
            "mean": round(float(pooled.mean()), 3),
            "standard_deviation": round(float(pooled.std()), 3),
            "largest": round(float(pooled.max()), 3),
        },
        "fine_tuning": [
            fine_tune(config, stored, rate, seed, fit, test)
            for rate in config.tune_learning_rates
            for seed in config.tune_seeds
        ],
    }


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "device": jax.devices()[0].platform,
        "cpu_cores": os.cpu_count(),
    }


def write_weights(body: Any, path: Path) -> None:
    """Store the body in float16 under flat names such as "stage1_block0/conv1/kernel"."""
    flat = traverse_util.flatten_dict(body, sep="/")
    np.savez_compressed(path, **{name: np.float16(flat[name]) for name in sorted(flat)})


def draw(results: dict[str, Any], path: Path) -> None:
    """Fine-tuning loss over steps, one line per run."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    rates = results["config"]["tune_learning_rates"]
    for run in results["fine_tuning"]:
        color = f"C{rates.index(run['learning_rate'])}"
        label = f"learning rate {run['learning_rate']:g}" if run["seed"] == 0 else None
        steps = results["config"]["tune_record_steps"]
        axes.plot(steps, run["train_loss"], "o-", color=color, label=label, markersize=3)
    axes.set(xlabel="steps", ylabel="loss on all 1,000 training samples (nats)", yscale="log")
    axes.set_title("Fine-tuning the embedded network on digits, three seeds")
    axes.legend()
    figure.savefig(path, dpi=120)


def main(config: Config, data: Path, weights: Path, output: Path) -> dict[str, Any]:
    """Run the experiment; write the weights, and results.json and figure.png into `output`."""
    started = time.perf_counter()
    raw_train, raw_held_out = read_mnist(data / "datasets" / "mnist", config.extra_train_samples)
    samples = augment(raw_train, config.variants, np.random.default_rng(config.seed))
    held_out = shrink_all(raw_held_out, [Style()] * len(raw_held_out.y))
    prepared = time.perf_counter()
    module, params = pretrain(config, samples)
    trained = time.perf_counter()
    write_weights(split_head(params)[0], weights)
    measured = evaluate(config, module, params, held_out)
    seconds = {
        "data": round(prepared - started, 1),
        "pretraining": round(trained - prepared, 1),
        "evaluation": round(time.perf_counter() - trained, 1),
    }
    counts = {"mnist_train": len(raw_train.y), "mnist_held_out": len(held_out.y)}
    results = {
        "config": asdict(config),
        "environment": environment(),
        "seconds": seconds,
        "samples": counts,
        **measured,
    }
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results, output / "figure.png")
    return results


if __name__ == "__main__":
    if not (DATA / "datasets" / "mnist").is_dir():
        sys.exit(f"pretrain: no MNIST under {DATA}; set NTKPREDICT_DATA (see README.md)")
    tfds.disable_progress_bar()
    report = main(Config(), DATA, WEIGHTS, HERE)
    print(json.dumps({key: report[key] for key in report if key != "config"}, indent=2))
