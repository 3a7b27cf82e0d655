import numpy as np
import pytest
import tensorflow_datasets as tfds

import ntkpredict as ntp
from ntkpredict.data import subset_index, take

LABELS = np.array([0, 1, 2, 1], np.int32)
POINTS = np.arange(8, dtype=np.float32).reshape(4, 2)


class TestArrays:
    def test_one_array(self):
        data = ntp.Data((POINTS, LABELS), (POINTS[:2], LABELS[:2]))
        assert data.samples == 4
        assert data.name == "data"

    def test_a_tree_of_arrays(self):
        inputs = {"image": np.zeros((4, 3, 3)), "more": (POINTS, LABELS)}
        assert ntp.Data((inputs, LABELS)).samples == 4
        part, labels = take((inputs, LABELS), np.array([2, 0]))
        np.testing.assert_array_equal(part["more"][0], POINTS[[2, 0]])
        np.testing.assert_array_equal(labels, LABELS[[2, 0]])

    def test_targets_of_regression(self):
        assert ntp.Data((POINTS, np.ones((4, 3)))).samples == 4

    @pytest.mark.parametrize(
        ("train", "message"),
        [
            ((POINTS, LABELS[:3]), "train: inputs and labels have lengths [3, 4]"),
            (((POINTS, POINTS[:2]), LABELS), "train: inputs and labels have lengths [2, 4]"),
            ((POINTS[:1], LABELS[:1]), "train: got 1 samples; expected at least 2"),
            ((POINTS[:0], LABELS[:0]), "train: got 0 samples; expected at least 2"),
            (({}, LABELS), "train: expected (inputs, labels), arrays"),
            (([1.0, 2.0], LABELS), "train: expected (inputs, labels), arrays"),
        ],
        ids=["labels", "tree", "one", "none", "empty", "list"],
    )
    def test_what_is_no_data(self, refused, train, message):
        with refused(message):
            ntp.Data(train)

    def test_what_are_no_arrays(self, unchecked_messages):
        cases = [
            "ntp.Data((np.ones((4, 2)), 3))",
            "ntp.Data((np.ones((4, 2)), np.int32(3)))",
            "ntp.Data((np.ones((4, 2)), [0, 1, 2, 3]))",
            "ntp.Data((None, np.ones(4)))",
        ]
        expected = "train: expected (inputs, labels), arrays with the samples on the leading axis"
        assert unchecked_messages(cases) == [f"ValueError: {expected}"] * len(cases)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_inputs_that_are_not_finite_are_counted(self, refused, value):
        inputs = {"clean": POINTS.copy(), "spoilt": POINTS.copy()}
        inputs["spoilt"][[1, 3], [0, 1]] = value
        message = "NaN or infinite inputs in 2 samples, the first is number 1;"
        with refused(f"train: {message}"):
            ntp.Data((inputs, LABELS))
        with refused(f"validation: {message}"):
            ntp.Data(({"clean": POINTS, "spoilt": POINTS}, LABELS), (inputs, LABELS))

    def test_validation_of_another_shape(self, refused):
        with refused("validation: got samples of shape (3,); expected (2,)"):
            ntp.Data((POINTS, LABELS), (np.zeros((4, 3), np.float32), LABELS))
        with refused("validation: got samples of shape ['b'] (2,); expected ['a'] (2,)"):
            ntp.Data(({"a": POINTS}, LABELS), ({"b": POINTS}, LABELS))


class TestSubset:
    def test_is_the_same_each_time_and_in_order(self):
        first, again = subset_index(100, 20), subset_index(100, 20)
        np.testing.assert_array_equal(first, again)
        assert (np.diff(first) > 0).all()
        assert len(first) == 20

    def test_a_larger_one_holds_the_smaller(self):
        assert set(subset_index(100, 10)) <= set(subset_index(100, 50))

    @pytest.mark.parametrize("count", [7, 8, 1000])
    def test_all_of_few(self, count):
        np.testing.assert_array_equal(subset_index(7, count), np.arange(7))


class TestArchive:
    @pytest.fixture
    def archive(self, tmp_path):
        def write(**arrays):
            path = tmp_path / "points.npz"
            np.savez(path, **arrays)
            return path

        return write

    def test_training_only(self, archive):
        data = ntp.load_data(f"npz:{archive(x_train=POINTS, y_train=LABELS)}")
        np.testing.assert_array_equal(data.train[0], POINTS)
        np.testing.assert_array_equal(data.train[1], LABELS)
        assert data.validation is None
        assert data.name == "points"

    def test_with_validation(self, archive):
        path = archive(
            x_train=POINTS, y_train=LABELS, x_validation=2 * POINTS, y_validation=LABELS[::-1]
        )
        data = ntp.load_data(f"npz:{path}")
        np.testing.assert_array_equal(data.validation[0], 2 * POINTS)
        np.testing.assert_array_equal(data.validation[1], LABELS[::-1])

    def test_bytes_are_scaled(self, archive):
        images = np.array([[0, 51], [102, 255]], np.uint8)
        data = ntp.load_data(f"npz:{archive(x_train=images, y_train=LABELS[:2])}")
        assert data.train[0].dtype == np.float32
        np.testing.assert_allclose(data.train[0], [[0, 0.2], [0.4, 1]], rtol=1e-6)

    def test_other_integers_are_left_alone(self, archive):
        tokens = np.array([[0, 51], [102, 255]], np.int64)
        data = ntp.load_data(f"npz:{archive(x_train=tokens, y_train=LABELS[:2])}")
        np.testing.assert_array_equal(data.train[0], tokens)
        assert data.train[0].dtype == np.int64

    @pytest.mark.parametrize(
        ("arrays", "missing"),
        [
            ({"x": POINTS, "y": LABELS}, "['x_train', 'y_train']"),
            ({"x_train": POINTS}, "['y_train']"),
            ({"x_train": POINTS, "y_train": LABELS, "x_validation": POINTS}, "['y_validation']"),
            ({"x_train": POINTS, "y_train": LABELS, "y_validation": LABELS}, "['x_validation']"),
        ],
    )
    def test_missing_arrays(self, archive, refused, arrays, missing):
        path = archive(**arrays)
        with refused(f"data: '{path}' lacks {missing}; it holds {sorted(arrays)}"):
            ntp.load_data(f"npz:{path}")

    def test_pickled_objects_are_not_read(self, archive, refused, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "trapped"), "w"))

        objects = np.array([Trap(), Trap()], dtype=object)
        path = archive(x_train=objects, y_train=LABELS[:2])
        with refused(f"data: '{path}' cannot be read as a NumPy archive: "):
            ntp.load_data(f"npz:{path}")
        assert not (tmp_path / "trapped").exists()

    @pytest.mark.parametrize("content", [b"", b"not an archive\n", b"PK\x03\x04 or nearly"])
    def test_not_an_archive(self, refused, tmp_path, content):
        path = tmp_path / "data.npz"
        path.write_bytes(content)
        with refused(f"data: '{path}' cannot be read as a NumPy archive: "):
            ntp.load_data(f"npz:{path}")

    def test_a_single_array_is_not_an_archive(self, refused, tmp_path):
        np.save(tmp_path / "data.npy", POINTS)
        with refused(f"data: '{tmp_path / 'data.npy'}' cannot be read as a NumPy archive: "):
            ntp.load_data(f"npz:{tmp_path / 'data.npy'}")

    @pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
    def test_a_truncated_archive(self, archive, refused, share):
        path = archive(x_train=POINTS, y_train=LABELS)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with refused(f"data: '{path}' cannot be read as a NumPy archive: "):
            ntp.load_data(f"npz:{path}")

    def test_a_damaged_array(self, archive, refused):
        path = archive(x_train=np.arange(1000.0), y_train=np.arange(1000))
        content = bytearray(path.read_bytes())
        content[4000] ^= 0xFF
        path.write_bytes(content)
        with refused(f"data: '{path}' cannot be read as a NumPy archive: "):
            ntp.load_data(f"npz:{path}")

    def test_no_such_file(self, refused, tmp_path):
        with refused(f"data: '{tmp_path / 'none.npz'}' cannot be read as a NumPy archive: "):
            ntp.load_data(f"npz:{tmp_path / 'none.npz'}")


@pytest.mark.parametrize("source", ["", "digit", "npz", "npz:", "tfds:", "csv:data.csv"])
def test_unknown_source(refused, source):
    with refused(f"data: got {source!r}; expected 'digits', 'tfds:NAME' or 'npz:PATH'"):
        ntp.load_data(source)


class OwnPoints(tfds.core.GeneratorBasedBuilder):
    """A user's own data set; `kind` says what is odd about it."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = tfds.core.Path(__file__)
    kind = "plain"

    def _info(self):
        features = {
            "point": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            "label": tfds.features.Scalar(np.float32 if self.kind == "float" else np.int64),
        }
        if self.kind == "ragged":
            features["point"] = tfds.features.Tensor(shape=(None,), dtype=np.float32)
        if self.kind == "text":
            features["point"] = tfds.features.Text()
        keys = None if self.kind == "unsupervised" else ("point", "label")
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=keys
        )

    def _split_generators(self, dl_manager):
        if self.kind == "split":
            return {"everything": self._generate_examples(1)}
        return {"train": self._generate_examples(1), "validation": self._generate_examples(3)}

    def _generate_examples(self, scale):
        for i, (point, label) in enumerate(zip(scale * POINTS, LABELS, strict=True)):
            odd = {"ragged": point[: 1 + i % 2], "text": str(point)}
            yield i, {"point": odd.get(self.kind, point), "label": label}


class OwnFloat(OwnPoints):
    """Labels that are no classes."""

    kind = "float"


class OwnRagged(OwnPoints):
    """Inputs of several shapes."""

    kind = "ragged"


class OwnText(OwnPoints):
    """Inputs that are no numbers."""

    kind = "text"


class OwnUnsupervised(OwnPoints):
    """No labels."""

    kind = "unsupervised"


class OwnSplit(OwnPoints):
    """No training split."""

    kind = "split"


class TestTfds:
    def test_digits(self, digits):
        for (images, labels), count in ((digits.train, 1000), (digits.validation, 797)):
            assert images.shape == (count, 8, 8, 1)
            assert images.dtype == np.float32
            assert images.min() == 0
            assert images.max() == 1
            assert labels.dtype == np.int32
            assert set(labels) == set(range(10))
        assert digits.name == "digits"

    def test_digits_are_those_of_scikit_learn(self, digits):
        from sklearn.datasets import load_digits

        def rows(images, labels):
            pixels = np.rint(images.reshape(len(labels), 64) * 255).astype(int)
            return sorted(map(tuple, np.column_stack([pixels, labels]).tolist()))

        values, labels = load_digits(return_X_y=True)
        loaded = [
            np.concatenate(pair) for pair in zip(digits.train, digits.validation, strict=True)
        ]
        expected = rows(np.rint(values * 255 / 16) / 255, labels)
        assert rows(*loaded) == expected

    def test_digits_are_the_same_each_time(self, digits, tmp_path):
        again = ntp.load_data("digits", data_dir=tmp_path)
        for split in ("train", "validation"):
            for one, other in zip(getattr(digits, split), getattr(again, split), strict=True):
                np.testing.assert_array_equal(one, other)
        assert (tmp_path / "digits").is_dir()

    def test_nothing_is_printed(self, tmp_path, capfd):
        ntp.load_data("digits", data_dir=tmp_path)
        assert capfd.readouterr() == ("", "")

    def test_a_users_own_builder(self, tmp_path, capsys):
        data = ntp.load_data("tfds:own_points", data_dir=tmp_path)
        for (points, labels), scale in ((data.train, 1), (data.validation, 3)):
            order = np.lexsort(points.T)
            np.testing.assert_array_equal(points[order], scale * POINTS)
            np.testing.assert_array_equal(labels[order], LABELS)
            assert labels.dtype == np.int32
        assert data.name == "own_points"
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("own_float", "data: 'tfds:own_float' has labels of float"),
            ("own_ragged", "data: 'tfds:own_ragged', 'point' comes in 2 shapes, such as (1,)"),
            ("own_text", "data: 'tfds:own_text', 'point' holds "),
            ("own_unsupervised", "data: 'tfds:own_unsupervised' has supervised_keys None"),
            ("own_split", "data: 'tfds:own_split' has splits ['everything']; expected 'train'"),
            ("no_such_set", "data: 'tfds:no_such_set' cannot be prepared: "),
            ("no such/name:!", "data: 'tfds:no such/name:!' cannot be prepared: "),
        ],
    )
    def test_sets_that_do_not_fit(self, tmp_path, refused, name, message):
        with refused(message):
            ntp.load_data(f"tfds:{name}", data_dir=tmp_path)

    def test_the_default_folder_is_not_the_home_folder_here(self, tfds_folder, digits):
        assert tfds.builder("digits").data_dir.startswith(str(tfds_folder))
