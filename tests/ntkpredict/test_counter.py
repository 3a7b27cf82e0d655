"""Each counter beside the framework's own class, on the same random curves."""

import types
import warnings

import numpy as np
import pytest

from ntkpredict.counter import (
    Count,
    HuggingFaceCounter,
    KerasCounter,
    LightningCounter,
    TargetCounter,
    early_stopping,
)

CURVES = 1000
EVALUATIONS = 16


@pytest.fixture(scope="module")
def curves():
    """Falling, with ties, plateaus, NaN and infinities: (curve, random numbers) of each."""
    built = []
    for seed in range(CURVES):
        random = np.random.default_rng(seed)
        n = int(random.integers(1, EVALUATIONS + 1))
        values = 2 * np.exp(-np.arange(n) / random.uniform(1, 15)) + 0.3 * random.normal(size=n)
        values = np.round(values, int(random.choice([1, 1, 1, 4])))
        if random.uniform() < 0.3:
            values = np.maximum(values, random.choice(values))  # a plateau
        odd = random.uniform(size=n) < random.choice([0, 0, 0.15])
        values[odd] = random.choice([np.nan, np.inf, -np.inf], size=odd.sum())
        built.append((values, random))
    return built


def ours(counter, values):
    return int(counter.stops(values[None])[0])


def replay(values, stopped):
    """The first evaluation after which a framework's class says so."""
    return next((i for i, value in enumerate(values, start=1) if stopped(i - 1, value)), 0)


def options(random, values, **choices):
    """Each option at a value that can make a difference on this curve, or at its default."""
    finite = values[np.isfinite(values)]
    near = {"near": float(random.choice(finite)) if len(finite) else 1.0}
    return {
        name: near.get(choice, choice)
        for name, choice in ((name, random.choice(c)) for name, c in choices.items())
    }


DELTAS = np.array([0.0, 0.1, 0.2, 0.5], object)
NEAR = np.array([None, None, "near"], object)


def test_keras(curves):
    from keras.callbacks import EarlyStopping

    for values, random in curves:
        patience, mode = int(random.integers(0, 6)), str(random.choice(["min", "max"]))
        start = int(random.choice([0, 0, 3]))
        chosen = options(random, values, min_delta=DELTAS, baseline=NEAR)
        callback = EarlyStopping("value", patience=patience, mode=mode, start_from_epoch=start,
                                 **chosen)  # fmt: skip
        model = types.SimpleNamespace(stop_training=False)
        callback.set_model(model)
        callback.on_train_begin()

        def stopped(epoch, value, callback=callback, model=model):
            callback.on_epoch_end(epoch, {"value": float(value)})
            return model.stop_training

        counter = KerasCounter(patience, mode=mode, start_from_epoch=start, **chosen)
        assert ours(counter, values) == replay(values, stopped), (counter, values)


def test_hugging_face(curves):
    from transformers import EarlyStoppingCallback, Trainer, TrainerControl, TrainerState

    for values, random in curves:
        patience, greater = int(random.integers(0, 6)), bool(random.integers(2))
        chosen = options(random, values, threshold=DELTAS)
        callback = EarlyStoppingCallback(patience, chosen["threshold"])
        args = types.SimpleNamespace(
            greater_is_better=greater, metric_for_best_model="value", save_strategy="epoch"
        )
        state, control = TrainerState(), TrainerControl()
        trainer = types.SimpleNamespace(args=args, state=state)

        def stopped(_, value, callback=callback, trainer=trainer, control=control):
            metrics = {"eval_value": float(value)}
            with np.errstate(invalid="ignore"):
                callback.on_evaluate(trainer.args, trainer.state, control, metrics)
                Trainer._determine_best_metric(trainer, metrics, None)
            return control.should_training_stop

        counter = HuggingFaceCounter(patience, mode="max" if greater else "min", **chosen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # their inf - inf
            expected = replay(values, stopped)
        assert ours(counter, values) == expected, (counter, values)


def test_lightning(curves):
    import torch
    from lightning.pytorch.callbacks import EarlyStopping

    for values, random in curves:
        patience, mode = int(random.integers(0, 6)), str(random.choice(["min", "max"]))
        finite = bool(random.integers(2))
        chosen = options(
            random, values, min_delta=DELTAS, stopping_threshold=NEAR, divergence_threshold=NEAR
        )
        callback = EarlyStopping("value", patience=patience, mode=mode, check_finite=finite,
                                 **chosen)  # fmt: skip

        def stopped(_, value, callback=callback):
            current = torch.tensor(float(value), dtype=torch.float32)
            return callback._evaluate_stopping_criteria(current)[0]

        counter = LightningCounter(patience, mode=mode, check_finite=finite, **chosen)
        assert ours(counter, values) == replay(values, stopped), (counter, values)


def test_lightning_compares_in_single_precision():
    import torch
    from lightning.pytorch.callbacks import EarlyStopping

    tenths = np.arange(30) / 10
    pairs = np.array([(best, value) for best in tenths for value in tenths])
    for delta in (0.1, 0.2, 0.5):
        stops = LightningCounter(1, delta).stops(pairs) > 0
        for pair, stopped in zip(torch.tensor(pairs, dtype=torch.float32), stops, strict=True):
            callback = EarlyStopping("value", patience=1, min_delta=delta)
            told = [callback._evaluate_stopping_criteria(value)[0] for value in pair]
            assert told[-1] == stopped, (pair, delta)


COUNTERS = [
    KerasCounter(2, 0.1, baseline=1.0, start_from_epoch=2),
    HuggingFaceCounter(3, 0.05),
    LightningCounter(2, stopping_threshold=0.2),
    TargetCounter(0.5),
    TargetCounter(relative=0.5),
]


@pytest.mark.parametrize("counter", COUNTERS, ids=lambda counter: type(counter).__name__)
class TestEveryCounter:
    def test_goes_on_from_where_it_was(self, curves, counter):
        for values, _ in curves[:50]:
            count = counter.start()
            for value in values[: len(values) // 2]:
                count = counter.update(count, np.array([value]))
            rest = values[None, len(values) // 2 :]
            assert int(counter.stops(rest, count)[0]) == ours(counter, values)

    def test_many_runs_are_as_one_by_one(self, curves, counter):
        rows = np.random.default_rng(0).normal(1, 0.5, size=(40, 12))
        assert counter.stops(rows).tolist() == [ours(counter, row) for row in rows]

    def test_counting_changes_no_earlier_count(self, counter):
        count = counter.start(3)
        before = [np.copy(field) for field in count]
        counter.update(count, np.array([1.0, np.nan, 0.1]))
        assert all(np.array_equal(a, b) for a, b in zip(before, count, strict=True))

    def test_repeat_gives_every_future_the_same_past(self, counter):
        count = counter.update(counter.start(), np.array([1.3]))
        futures = np.random.default_rng(1).normal(1, 0.5, size=(20, 9))
        alone = [int(counter.stops(row[None], count)[0]) for row in futures]
        assert counter.stops(futures, count.repeat(20)).tolist() == alone
        assert isinstance(count.repeat(2), Count)


class TestTargetCounter:
    def test_comes_to_a_value(self):
        assert ours(TargetCounter(0.5), np.array([2.0, np.nan, 0.6, 0.5, 0.1])) == 4
        assert ours(TargetCounter(0.9, mode="max"), np.array([0.5, 0.89, 0.9])) == 3
        assert ours(TargetCounter(0.5), np.array([2.0, 1.0])) == 0

    def test_a_share_counts_from_the_first_value(self):
        assert ours(TargetCounter(relative=0.5), np.array([2.0, 1.5, 1.0])) == 3


def test_names():
    assert early_stopping("keras", 3, 0.1) == KerasCounter(3, 0.1)
    assert early_stopping("huggingface", 3, 0.1) == HuggingFaceCounter(3, 0.1)
    assert early_stopping("lightning", 3, 0.1, "max") == LightningCounter(3, 0.1, "max")


def test_bad_arguments(unchecked_messages):
    module = "__import__('ntkpredict.counter').counter."
    cases = {
        "KerasCounter(-1)": "patience: got -1; expected a whole number, at least 0",
        "LightningCounter(1.5)": "patience: got 1.5; expected a whole number, at least 0",
        "HuggingFaceCounter(mode='up')": "mode: got 'up'; expected 'min' or 'max'",
        "early_stopping('jax', 1)": (
            "framework: got 'jax'; expected 'keras', 'huggingface' or 'lightning'"
        ),
    }
    found = unchecked_messages([module + code for code in cases])
    assert found == [f"ValueError: {text}" for text in cases.values()]
