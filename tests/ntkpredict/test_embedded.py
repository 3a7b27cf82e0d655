import importlib.resources
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkpredict as ntp
from linearize import check
from ntkpredict.embedded import load_network, load_pretrained

FILES = importlib.resources.files("ntkpredict.embedded")


@pytest.fixture(scope="module")
def network():
    return load_network()


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(size=(5, 8, 8, 1)), jnp.float32)


class TestSize:
    def test_parameters_are_those_of_the_model_card(self, network):
        body = sum(leaf.size for leaf in jax.tree.leaves(network.body(network.params)))
        assert body == 174_128
        assert network.parameter_count == 174_778
        card = (FILES / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert "174,128" in card
        assert "174,778" in card

    def test_files_are_small(self):
        sizes = {file.name: len(file.read_bytes()) for file in FILES.iterdir() if file.is_file()}
        assert "weights.npz" in sizes
        assert sum(sizes.values()) <= 2_000_000

    @pytest.mark.parametrize("outputs", [1, 3, 10])
    def test_outputs(self, images, outputs):
        network = load_network(outputs=outputs)
        assert network.apply(network.params, images).shape == (5, outputs)
        assert network.parameter_count == 174_128 + 65 * outputs

    @pytest.mark.parametrize("outputs", [0, -1])
    def test_no_outputs(self, refused, outputs):
        with refused(f"outputs: got {outputs}; expected a positive integer"):
            load_network(outputs=outputs)


class TestWeights:
    def test_load_without_pickle(self):
        with (FILES / "weights.npz").open("rb") as file, np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        assert sum(array.size for array in arrays.values()) == 174_128
        for name, array in arrays.items():
            assert array.dtype == np.float16, name
            assert np.isfinite(array).all(), name

    def test_are_the_same_each_time(self, network):
        again = load_network()
        jax.tree.map(np.testing.assert_array_equal, again.params, network.params)

    def test_a_seed_changes_the_head_only(self, network):
        other = load_network(seed=1)
        jax.tree.map(
            np.testing.assert_array_equal, other.body(other.params), network.body(network.params)
        )
        assert (other.head_kernel(other.params) != network.head_kernel(network.params)).any()

    def test_the_head_is_fresh(self, network):
        kernel = np.asarray(network.head_kernel(network.params))
        assert kernel.shape == (64, 10)
        assert kernel.std() == pytest.approx(1 / 8, rel=0.15)  # LeCun: 1/√64
        assert abs(kernel.mean()) < 0.02
        np.testing.assert_array_equal(network.head_bias(network.params), 0)

    def test_are_single_precision(self):
        _, variables = load_pretrained(outputs=10, seed=0)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


class TestNetwork:
    def test_is_what_a_forecast_needs(self, network, images):
        assert check(network, images) == 10
        assert network.head is not None

    def test_is_deterministic_and_samples_do_not_interact(self, network, images):
        apply = jax.jit(network.apply)
        together = apply(network.params, images)
        np.testing.assert_array_equal(apply(network.params, images), together)
        order = np.array([3, 1, 4, 0, 2])
        np.testing.assert_allclose(
            apply(network.params, images[order]), together[order], rtol=1e-4, atol=1e-5
        )

    def test_its_body_knows_digits(self, network, digits):
        """A linear classifier on the frozen features, by least squares."""
        forward = jax.jit(lambda x: network.features(network.params, x, jnp.eye(64)))

        images, labels = (part[:600] for part in digits.train)
        hidden = np.concatenate([forward(part) for part in np.split(images, 6)])
        design = np.column_stack([hidden, np.ones(600)])
        weights = np.linalg.lstsq(design[:400], np.eye(10)[labels[:400]], rcond=None)[0]
        assert ((design[400:] @ weights).argmax(1) == labels[400:]).mean() > 0.9


def test_importing_the_product_does_not_import_the_data_sets():
    code = (
        "import sys, ntkpredict; print(sorted({'tensorflow_datasets', 'orbax'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


def test_the_package_says_what_it_exports():
    assert sorted(ntp.__all__) == ntp.__all__
    assert all(hasattr(ntp, name) for name in ntp.__all__)
    assert all(getattr(ntp, name).__doc__ for name in ntp.__all__)
