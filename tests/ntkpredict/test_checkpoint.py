import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from ntkpredict.checkpoint import Checkpoints

STATE = {"params": jnp.linspace(0, 1, 50), "count": jnp.int32(7), "more": [jnp.ones((3, 2))]}
RUN = {"plan": "sgd", "seed": 0}


def curves(step):
    return {"steps": [0, step], "train_loss": [1 / 3, 0.1]}


def state(step):
    return jax.tree.map(lambda leaf: leaf + step, STATE)


@pytest.fixture
def store():
    """Open folders, and close them in the end."""
    stores = []

    def opened(folder, run=RUN):
        stores.append(Checkpoints(folder, run))
        return stores[-1]

    yield opened
    for one in stores:
        one.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with checkpoints after 10, 20 and 30 steps, of which two are kept."""
    folder = tmp_path_factory.mktemp("written")
    checkpoints = Checkpoints(folder, RUN)
    for step in (10, 20, 30):
        checkpoints.save(step, state(step), curves(step))
    checkpoints.close()
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(written, tmp_path / "run")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_is(found, step):
    assert found[0] == step
    assert jax.tree.structure(found[1]) == jax.tree.structure(STATE)
    jax.tree.map(np.testing.assert_array_equal, found[1], state(step))
    assert found[2] == curves(step)


class TestLatest:
    def test_is_the_last_one_written(self, store, folder):
        assert_is(store(folder).latest(STATE), 30)

    def test_only_two_are_kept(self, folder):
        assert sorted(path.name for path in folder.iterdir()) == ["20", "30"]

    def test_there_is_none_in_a_new_folder(self, store, tmp_path):
        assert store(tmp_path).latest(STATE) is None

    def test_every_type_comes_back_bit_for_bit(self, store, tmp_path):
        odd = {
            "half": jnp.full((2, 3), 1 / 3, jnp.bfloat16),
            "bool": jnp.array([True, False]),
            "not finite": jnp.array([jnp.nan, jnp.inf, -0.0]),
            "legacy key": jax.random.PRNGKey(3),
        }
        checkpoints = store(tmp_path)
        checkpoints.save(1, {**odd, "key": jax.random.key(5)}, {"train_loss": [float("inf")]})
        _, restored, found = checkpoints.latest({**odd, "key": jax.random.key(0)})
        assert found == {"train_loss": [float("inf")]}
        key = restored.pop("key")
        assert key == jax.random.key(5)
        for name, leaf in odd.items():
            assert restored[name].dtype == leaf.dtype
            assert restored[name].shape == leaf.shape
            assert restored[name].tobytes() == leaf.tobytes()

    def test_of_another_structure_is_refused(self, store, folder, refused):
        with refused("checkpoints: "):
            store(folder).latest({**STATE, "velocity": jnp.zeros(3)})


class TestDamage:
    @pytest.mark.parametrize("how", ["truncate", "garble", "empty", "remove", "flip"])
    def test_to_any_file_is_told_in_one_line_and_deletes_nothing(
        self, store, folder, refused, how, capfd
    ):
        newest = folder / "30"
        for path in files_of(newest):
            if how == "remove" and path.name == "checksums.json":
                continue  # as where a kill came before it was written: see below
            content = path.read_bytes()
            flipped = bytearray(content)
            flipped[len(content) // 2] ^= 1
            if how == "remove":
                path.unlink()
            else:
                damaged = {
                    "truncate": content[: len(content) // 2],
                    "garble": bytes(byte ^ 0x5A for byte in content),
                    "empty": b"",
                    "flip": flipped,
                }
                path.write_bytes(damaged[how])
            before = contents(folder)
            with refused(f"checkpoints: '{newest}' cannot be read ("):
                store(folder).latest(STATE)
            assert contents(folder) == before
            path.write_bytes(content)
        assert capfd.readouterr().out == ""
        assert_is(store(folder).latest(STATE), 30)

    def test_the_advice_helps(self, store, folder, tmp_path, refused):
        for path in files_of(folder / "30"):
            path.write_bytes(b"")
        with refused(f"checkpoints: '{folder / '30'}' cannot be read (") as caught:
            store(folder).latest(STATE)
        assert "move that folder away to resume from the one before it" in str(caught.value)
        (folder / "30").rename(tmp_path / "damaged")
        assert_is(store(folder).latest(STATE), 20)

    def test_a_checkpoint_without_checksums_is_read(self, store, folder):
        (folder / "30" / "checksums.json").unlink()
        assert_is(store(folder).latest(STATE), 30)

    def test_an_unfinished_checkpoint_is_not_used(self, store, folder):
        shutil.move(folder / "30", folder / "30.orbax-checkpoint-tmp")
        assert_is(store(folder).latest(STATE), 20)

    def test_checksums_cover_every_file(self, folder):
        listed = json.loads((folder / "30" / "checksums.json").read_text())
        there = {path.relative_to(folder / "30").as_posix() for path in files_of(folder / "30")}
        assert set(listed) == there - {"checksums.json"}
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in listed.values())


class TestFolder:
    def test_is_made_with_its_parents(self, store, tmp_path):
        store(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()

    @pytest.mark.parametrize("name", ["file", "file/run"])
    def test_that_cannot_be_made_is_refused(self, store, tmp_path, refused, name):
        (tmp_path / "file").write_text("no folder")
        with refused(f"checkpoints: '{tmp_path / name}' cannot be made ("):
            store(tmp_path / name)
        assert (tmp_path / "file").read_text() == "no folder"

    def test_what_else_lies_there_stays(self, store, folder):
        (folder / "notes.txt").write_text("mine")
        (folder / "figures").mkdir()
        checkpoints = store(folder)
        assert_is(checkpoints.latest(STATE), 30)
        checkpoints.save(40, state(40), curves(40))
        assert (folder / "notes.txt").read_text() == "mine"
        assert (folder / "figures").is_dir()

    def test_of_another_run_is_refused_and_left_alone(self, store, folder, refused):
        before = contents(folder)
        with refused(f"checkpoints: '{folder}' holds another run (['plan', 'seed', 'x'] differ)"):
            store(folder, {"plan": "adamw", "seed": 1, "x": 1}).latest(STATE)
        assert contents(folder) == before


class TestOtherRuns:
    """What `train` holds to be another run."""

    @staticmethod
    def plan(**changes):
        return ntp.Plan.sgd(**{"lr": 0.05, "batch_size": 8, "max_steps": 10, **changes})

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, linear, data, tmp_path_factory):
        folder = tmp_path_factory.mktemp("trained")
        ntp.train(linear, data, cls.plan(), checkpoints=folder, checkpoint_every=5)
        return folder

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"lr": 0.06}, "['plan']"),
            ({"momentum": 0.8}, "['plan']"),
            ({"batch_size": 4}, "['plan']"),
            ({"max_steps": 60}, "['max_steps']"),
            ({"loss": "squared_error", "seed": 1}, "['loss', 'seed']"),
        ],
    )
    def test_another_plan(self, linear, data, trained, refused, changes, told):
        before = contents(trained)
        with refused(f"checkpoints: '{trained}' holds another run ({told} differ); give another"):
            ntp.train(linear, data, self.plan(**changes), checkpoints=trained)
        assert contents(trained) == before

    def test_another_network(self, mlp, data, trained, refused):
        with refused(f"checkpoints: '{trained}' holds another run (['network', "):
            ntp.train(mlp, data, self.plan(), checkpoints=trained)

    def test_other_weights(self, linear, data, trained, refused):
        params = {"head": {**linear.params["head"], "bias": np.ones(3, np.float32)}}
        other = ntp.Network.from_function(linear.function, params, head="head", name="linear")
        with refused(f"checkpoints: '{trained}' holds another run (['weights'] differ)"):
            ntp.train(other, data, self.plan(), checkpoints=trained)

    def test_other_data(self, linear, data, trained, refused):
        points, labels = data.train
        other = ntp.Data((points + 1e-3, labels), data.validation, name=data.name)
        with refused(f"checkpoints: '{trained}' holds another run (['contents'] differ)"):
            ntp.train(linear, other, self.plan(), checkpoints=trained)

    def test_another_optimizer_state(self, linear, data, tmp_path, refused):
        """Custom optimizers have no description to tell them apart."""
        ntp.train(
            linear, data, ntp.Plan(optax.sgd(0.1), 8, 4), checkpoints=tmp_path, checkpoint_every=2
        )
        with refused("checkpoints: "):
            ntp.train(linear, data, ntp.Plan(optax.adam(0.1), 8, 4), checkpoints=tmp_path)
