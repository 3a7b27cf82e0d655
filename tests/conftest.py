"""Every test runs on the CPU, in float32 unless it asks for `x64`."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # read when JAX is imported, here and in subprocesses
os.environ["KERAS_BACKEND"] = "jax"

import jax
import pytest

jax.config.update("jax_platforms", "cpu")  # should a pytest plugin have imported JAX already
# Tests wait for compilation, not for runs, and many of them compile the same programs. The folder
# is this process's own: another one may be killed while it writes.
jax.config.update("jax_disable_most_optimizations", True)
_PROGRAMS = tempfile.mkdtemp()
atexit.register(shutil.rmtree, _PROGRAMS, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _PROGRAMS)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def optimized() -> Iterator[None]:
    """Compile as a user does, for tests whose running takes longer than their compiling."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session", autouse=True)
def tfds_folder(tmp_path_factory):
    """TFDS writes here, in this process and its children, and never into the home folder."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        patch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def history_file(tmp_path_factory):
    """The history of this process and its children, never the one in the home folder."""
    path = tmp_path_factory.mktemp("history") / "history.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTKPREDICT_HISTORY", str(path))
        yield path


@pytest.fixture
def small_network(monkeypatch):
    """In the place of the embedded one, where experiments load it."""
    from tests import small  # not before the packages' types are checked

    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "experiments" / "suite")
    for module in ("tasks", "ntkpredict.embedded"):  # the one that imports from the other first
        monkeypatch.setattr(f"{module}.load_network", small.load_network)
    monkeypatch.setattr("ntkpredict.embedded.load_pretrained", small.load_pretrained)


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision, for oracles that must agree to many digits."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
