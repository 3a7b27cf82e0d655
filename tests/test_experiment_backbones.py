import importlib
import json
import runpy
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from linearize import Network, check

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "backbones"
NAMES = ("resnet8", "resnet20", "resnet56", "mcunet", "squeezenet1.1", "mobilenetv2", "resnet50v2")


@pytest.fixture
def backbones(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENT)
    return importlib.import_module("backbones")


@pytest.fixture
def folder(backbones):
    found = backbones.data_folder()
    if not (found / "weights").is_dir():
        pytest.skip(f"no pretrained weights in {found} (set NTKPREDICT_DATA)")
    return found


def photos(samples, side, channels=3):
    shape = (samples, side, side, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_each_network_can_be_forecast(backbones, folder, name):
    backbone = backbones.load_backbone(name, outputs=3, folder=folder)
    network = Network.from_linen(backbone.module, backbone.variables, head="head", name=name)
    # Small images: the networks pool over whatever is left of them.
    preprocess = replace(backbone.preprocess, size=min(backbone.preprocess.size, 64))
    assert check(network, preprocess(photos(2, 32))) == 3
    assert network.head.kernel == "head/kernel"
    assert ("batch_stats" in backbone.variables) == (name not in ("mcunet", "squeezenet1.1"))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(backbone.variables))


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("name", "stated"), [("resnet8", 0.881), ("resnet20", 0.915)])
def test_the_own_head_is_as_accurate_as_stated(backbones, folder, name, stated):
    with np.load(folder / "datasets" / "cifar10_lossless_4k1k.npz") as file:
        images, labels = file["x_test"][:200], file["y_test"][:200]
    backbone = backbones.load_backbone(name)
    logits = jax.jit(backbone.module.apply)(backbone.variables, backbone.preprocess(images))
    accuracy = np.mean(np.argmax(logits, axis=1) == labels)
    assert abs(accuracy - stated) < 2.5 * np.sqrt(stated * (1 - stated) / 200)


def test_a_new_head_is_scaled_and_seeded(backbones, folder):
    def kernel(**settings):
        return backbones.load_backbone("resnet8", outputs=7, **settings).variables["params"]["head"]

    lecun = kernel(seed=1)["kernel"]
    assert lecun.shape == (64, 7)
    assert abs(np.std(lecun) - 1 / 8) < 0.02
    np.testing.assert_array_equal(kernel(seed=1, head_scale=0.5)["kernel"], 0.5 * lecun)
    assert not np.any(kernel(head_scale="zero")["kernel"])
    assert np.any(kernel(seed=2)["kernel"] != lecun)
    assert not np.any(kernel(seed=2)["bias"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet20", "outputs": 0}, "outputs: got 0; expected a positive integer"),
        ({"name": "mobilenetv2"}, "outputs: got None, but mobilenetv2 has no dense head"),
    ],
)
def test_a_head_that_cannot_be_is_refused(backbones, folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        backbones.load_backbone(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet21"}, "name: got 'resnet21'; expected one of resnet8, "),
        ({"name": "resnet20", "head_scale": "tiny"}, "head_scale: got 'tiny'; expected 'lecun'"),
        ({"name": "resnet20", "head_scale": -1.0}, "head_scale: got -1.0"),
    ],
)
def test_arguments_are_checked_before_files(backbones, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        backbones.load_backbone(**arguments, folder=tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_are_named(backbones, tmp_path, monkeypatch, name):
    monkeypatch.setenv("NTKPREDICT_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "weights")):
        backbones.load_backbone(name, outputs=2)


def test_a_file_of_another_network_is_refused(backbones, tmp_path):
    (tmp_path / "weights").mkdir()
    stem = {"conv1.weight": np.zeros((16, 3, 3, 3), np.float32)}
    np.savez(tmp_path / "weights" / "resnet20_cifar10.npz", **stem)
    with pytest.raises(ValueError, match=r"resnet20_cifar10.npz: does not fit .* missing"):
        backbones.load_backbone("resnet20", outputs=2, folder=tmp_path)


def test_images_are_resized_and_normalised(backbones):
    preprocess = backbones.Preprocess(8, (0.5, 0.0, 0.25), (0.5, 1.0, 0.25))
    flat = np.full((2, 8, 8, 3), 51, np.uint8)
    np.testing.assert_allclose(
        preprocess(flat)[1, 3, 4], [(0.2 - 0.5) / 0.5, 0.2, (0.2 - 0.25) / 0.25], rtol=1e-5
    )
    np.testing.assert_array_equal(preprocess(np.full((2, 5, 7, 1), 51, np.uint8)), preprocess(flat))
    with pytest.raises(ValueError, match="images: got float32"):
        preprocess(flat.astype(np.float32))


@pytest.mark.usefixtures("optimized")
def test_the_experiment_runs_on_a_few_images(backbones, folder, tmp_path):
    main = runpy.run_path(str(EXPERIMENT / "run.py"))["main"]
    results = main(smoke=True, folder=tmp_path)
    assert set(results["networks"]) == {"resnet8", "squeezenet1.1"}
    assert results["networks"]["resnet8"]["reached"]["accuracy"] > 70
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "figure.png").stat().st_size > 10_000
