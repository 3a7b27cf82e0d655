"""Do the rebuilt networks reach the accuracy that is stated for their weights?

    python experiments/backbones/run.py [--smoke]    # a tiny case, into a temporary folder

Networks for CIFAR-10 classify its test images with their own heads. ImageNet networks have no
labels here: logistic regression on their features tells garments apart, and on those of the same
network at random weights.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import numpy as np
from backbones import ENTRIES, Backbone, Preprocess, load_backbone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sources import arrays, load_images, photos

from ntkpredict.record import to_plain, write

HERE = Path(__file__).parent
TRAIN, VALIDATION, TEST = 0, 1, 2


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Measure, then write results.json and the figure."""
    config = json.loads((HERE / "config.json").read_text())
    if smoke:
        config["classify"] |= {"samples": 40, "stated": {"resnet8": 88.1}}
        config["probe"] |= {"samples": 60, "stated": {"squeezenet1.1": 72.6}}
        config["probe"] |= {"inverse_penalties": [0.01]}
        config |= {"batch_size": 20, "repeats": 2}
    networks = classify(config) | probe(config)
    results = to_plain({"config": config, "machine": platform.machine(), "networks": networks})
    write(folder / "results.json", results)
    draw(results, folder / "figure.png")
    print(table(results))
    return results


def classify(config: dict[str, Any]) -> dict[str, Any]:
    """Top-1 accuracy of each network with its own head on CIFAR-10's test images, in %."""
    samples = config["classify"]["samples"]
    images, labels = (array[:samples] for array in load_images("cifar10"))
    out = {}
    for name, stated in config["classify"]["stated"].items():
        backbone = load_backbone(name)
        function = jax.jit(backbone.module.apply)
        logits = apply(function, backbone.variables, backbone.preprocess, images, config)
        score = np.mean(logits.argmax(1) == labels)
        out[name] = facts(backbone, images, config)
        out[name] |= {"kind": "own head", "stated": stated, "reached": percent(score, len(labels))}
        print(name, out[name], flush=True)
    return out


def probe(config: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of logistic regression on pretrained and on random features of garments, in %."""
    images, labels, split = garments(config["probe"]["samples"])
    out = {}
    for name, stated in config["probe"]["stated"].items():
        backbone = load_backbone(name, len(np.unique(labels)))
        function = jax.jit(backbone.module.body.apply)
        random = jax.jit(backbone.module.body.init)(
            jax.random.key(0), backbone.preprocess(images[:1])
        )
        scores = {}
        for kind, variables in (("reached", backbone.body), ("random", random)):
            features = apply(function, variables, backbone.preprocess, images, config)
            scores[kind] = probe_accuracy(features, labels, split, config)
        out[name] = facts(backbone, images, config)
        out[name] |= {"kind": "probe", "stated": stated, **scores}
        out[name]["stated_random"] = config["probe"]["stated_random"][name]
        print(name, out[name], flush=True)
    return out


def probe_accuracy(
    features: np.ndarray, labels: np.ndarray, split: np.ndarray, config: dict[str, Any]
) -> dict[str, float]:
    """On the test part, of the penalty that is best on the validation part (the first of equals).

    Features are brought to mean 0 and standard deviation 1; only the training part is fitted.
    """

    def fit(inverse: float) -> Any:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse, max_iter=1000))
        return model.fit(features[split == TRAIN], labels[split == TRAIN])

    def score(model: Any, part: int) -> float:
        return model.score(features[split == part], labels[split == part])

    models = [fit(inverse) for inverse in config["probe"]["inverse_penalties"]]
    best = max(models, key=lambda model: score(model, VALIDATION))
    return percent(score(best, TEST), int(np.sum(split == TEST)))


def percent(share: float, samples: int) -> dict[str, float]:
    """An accuracy with the standard error of counting."""
    error = float(np.sqrt(share * (1 - share) / samples))
    return {"accuracy": 100 * float(share), "standard_error": 100 * error, "samples": samples}


def garments(samples: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (uint8, 96×96), labels and parts; a few random ones where a number is given."""
    found = arrays("clothing10_96_jpeg.npz")
    chosen = np.random.default_rng(0).permutation(len(found["y"]))[:samples]
    return photos(found, chosen), found["y"][chosen], found["split"][chosen]


def apply(
    function: Callable[[Any, Any], Any],
    variables: Any,
    preprocess: Preprocess,
    images: np.ndarray,
    config: dict[str, Any],
) -> np.ndarray:
    """A compiled network on all images, batch by batch; the last batch is filled up."""
    size, out = config["batch_size"], []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        out.append(function(variables, preprocess(np.resize(batch, (size, *images.shape[1:])))))
    return np.concatenate(out)[: len(images)]


def facts(backbone: Backbone, images: np.ndarray, config: dict[str, Any]) -> dict[str, Any]:
    """Size, origin and the milliseconds per sample of a forward pass (median, and spread)."""
    function = jax.jit(backbone.module.apply)
    inputs = jax.device_put(backbone.preprocess(images[: config["batch_size"]]))
    function(backbone.variables, inputs).block_until_ready()
    milliseconds = []
    for _ in range(config["repeats"]):
        start = time.perf_counter()
        function(backbone.variables, inputs).block_until_ready()
        milliseconds.append(1e3 * (time.perf_counter() - start) / len(inputs))
    return {
        "size": backbone.preprocess.size,
        "features": len(backbone.variables["params"]["head"]["kernel"]),
        "body_parameters": sum(leaf.size for leaf in jax.tree.leaves(backbone.body["params"])),
        "milliseconds_per_sample": float(np.median(milliseconds)),
        "milliseconds_range": [min(milliseconds), max(milliseconds)],
        "source": backbone.source,
        "licence": backbone.licence,
    }


def table(results: dict[str, Any]) -> str:
    """The table of README.md, in Markdown."""
    lines = [
        "| network | input | features | parameters of the body | stated, % | reached, % "
        "| at random weights, % (stated) | ms a sample | source | licence |",
        "|" + "---|" * 10,
    ]
    for name in ENTRIES:
        if name not in results["networks"]:
            continue
        row, random = results["networks"][name], ""
        if "random" in row:
            stated = "-" if row["stated_random"] is None else f"{row['stated_random']:g}"
            random = f"{row['random']['accuracy']:.1f} ({stated})"
        reached = row["reached"]
        cells = [
            name,
            f"{row['size']}",
            f"{row['features']:,}",
            f"{row['body_parameters']:,}",
            "-" if row["stated"] is None else f"{row['stated']:g}",
            f"{reached['accuracy']:.1f} ± {reached['standard_error']:.1f}",
            random,
            f"{row['milliseconds_per_sample']:.1f}",
            row["source"],
            row["licence"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Stated and reached accuracy by network."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    networks = results["networks"]
    figure, axis = plt.subplots(figsize=(7, 0.45 * len(networks) + 1.2))
    for place, row in enumerate(networks.values()):
        first = place == 0 or "random" in row
        for key, colour in (("reached", "tab:blue"), ("random", "tab:gray")):
            if key in row:
                point = row[key]
                axis.errorbar(
                    point["accuracy"],
                    place,
                    xerr=point["standard_error"],
                    color=colour,
                    marker="o",
                    capsize=3,
                    label={"reached": "reached", "random": "random weights"}[key] if first else "",
                )
        for key in ("stated", "stated_random"):
            if row.get(key) is not None:
                label = "stated" if place == 0 else ""
                axis.plot(row[key], place, "kx", markersize=9, zorder=3, label=label)
    axis.set_yticks(
        range(len(networks)), [f"{name} ({row['kind']})" for name, row in networks.items()]
    )
    axis.invert_yaxis()
    axis.set(xlim=(0, 100), xlabel="accuracy, %")
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axis.legend(unique.values(), unique.keys(), loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    smoke = "--smoke" in sys.argv
    main(smoke, Path(tempfile.mkdtemp()) if smoke else HERE)
