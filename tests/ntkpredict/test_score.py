import json
import math
import statistics

import numpy as np
import pytest

import ntkpredict as ntp
from ntkpredict.score import GROUPINGS, Summary, score
from ntkpredict.suite import applicable, targets


def run(
    *,
    loss=(4.0, 2.0, 1.0, 0.5, 0.2),
    accuracy=(0.0, 0.55, 0.65, 0.75, 0.85),
    split="development",
    distance="near",
    optimizer="sgd",
    samples=500,
):
    """What the file of a run of 40 steps holds, evaluated every 10; both data sets alike."""
    curve = {"loss": [list(loss)], "accuracy": [list(accuracy)]}
    return {
        "trained_steps": 40,
        "seconds": 60.0,
        "trajectory": {"steps": [0, 10, 20, 30, 40], "train": curve, "validation": curve},
        "case": {"optimizer": optimizer, "batch_size": 8, "max_steps": 40},
        "task": {"split": split, "distance": distance, "network": "net", "samples": samples},
    }


def forecast(answers, *, trusted=None, seconds=20.0, forward_passes=480.0, trajectory=None):
    """What the file of a forecast holds; answers are steps, or steps and interval, by rule."""
    found = {
        rule: answer if isinstance(answer, tuple) else (answer, None)
        for rule, answer in answers.items()
    }
    return {
        "forecaster": "ours",
        "targets": {rule: {"steps": s, "interval": i} for rule, (s, i) in found.items()},
        "validity": None,
        "trusted": trusted,
        "seconds": seconds,
        "forward_passes": forward_passes,
        "trajectory": trajectory,
    }


@pytest.fixture
def suite(tmp_path_factory):
    """Write a suite's folder from runs by key, and forecasts by forecaster and key."""

    def build(runs, forecasts):
        folder = tmp_path_factory.mktemp("suite")
        files = {f"runs/{key}": content for key, content in runs.items()}
        for forecaster, answers in forecasts.items():
            files |= {f"forecasts/{forecaster}/{key}": one for key, one in answers.items()}
        for name, content in files.items():
            path = folder / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
        return folder

    return build


@pytest.fixture
def summary(suite):
    """Of one forecaster, over all that it was asked, or by a group."""

    def build(runs, forecasts, by=()):
        found = score(suite(runs, {"ours": forecasts})).summaries("ours", by)
        return found if by else found[()]

    return build


class TestTargets:
    def test_are_the_standard_ones(self):
        assert [str(rule) for rule in targets(2000)] == [
            *("loss<=0.7x", "loss<=0.5x", "loss<=0.3x", "loss<=0.2x", "loss<=0.1x"),
            *(f"validation_accuracy>={value}" for value in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)),
            "validation_loss_patience>=5@50",
            "best_validation_loss",
        ]

    @pytest.mark.parametrize(("budget", "every"), [(1, 1), (39, 1), (79, 1), (80, 2), (320, 8)])
    def test_early_stopping_looks_forty_times(self, budget, every):
        assert ntp.EarlyStopping(5, every) in targets(budget)

    def test_can_be_read_back(self):
        for rule in targets(100):
            assert ntp.parse(str(rule)) == rule


class TestApplicable:
    @pytest.fixture
    def curves(self, trajectory):
        return trajectory(
            [0, 10, 20],
            [4.0, 2.0, 3.0],
            [0.5, 0.6, 0.6],
            ([1.0, 2.0, 3.0], [0.3, 0.5, 0.4]),
        )

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("loss<=0.5x", True),
            ("loss<=0.1x", True),  # not reached is not met
            ("loss<=4", False),
            ("accuracy>=0.5", False),
            ("val_accuracy>=0.5", True),
            ("best_val_loss", False),  # the start
            ("best_train_loss", True),
            ("patience>=1@10", True),
        ],
    )
    def test_unless_met_before_training(self, curves, text, expected):
        assert applicable(ntp.parse(text), curves) is expected

    def test_not_without_its_data(self, trajectory):
        assert not applicable(ntp.Best(), trajectory([0, 1], [3.0, 1.0]))


class TestSummary:
    """Real steps: 0.7x 6, 0.5x 10, 0.3x 18, 0.2x 24, 0.1x 33⅓, accuracy 0.8 35, 0.9 never."""

    def test_errors_where_both_reach(self, summary):
        found = summary(
            {"a": run()}, {"a": forecast({"loss<=0.7x": 6.6, "loss<=0.5x": 8, "loss<=0.3x": 27})}
        )
        assert found.targets == 3
        assert found.reached == 1
        assert found.missed == 0
        assert found.invented is None
        assert found.error_median == pytest.approx(0.2)
        assert found.error_95 == pytest.approx(0.5)
        assert found.bias == pytest.approx(math.log(1.1))
        assert found.within_15 == pytest.approx(1 / 3)

    def test_said_not_to_be_reached_is_an_infinite_error(self, summary):
        answers = {"loss<=0.7x": 6, "loss<=0.5x": None, "loss<=0.3x": None}
        found = summary({"a": run()}, {"a": forecast(answers)})
        assert found.missed == pytest.approx(2 / 3)
        assert found.error_median == found.error_95 == found.bias == math.inf
        assert found.within_15 == pytest.approx(1 / 3)

    def test_said_to_be_reached_where_it_is_not(self, summary):
        answers = {
            "val_accuracy>=0.8": 30,
            "validation_accuracy>=0.9": 30,
            "val_accuracy>=0.95": None,
        }
        found = summary({"a": run()}, {"a": forecast(answers)})
        assert found.targets == 3
        assert found.reached == pytest.approx(1 / 3)
        assert found.invented == 0.5
        assert found.error_median == pytest.approx(1 / 7, rel=1e-4)

    def test_step_0_is_an_answer(self, summary):
        found = summary({"a": run()}, {"a": forecast({"best_val_loss": (0, (0, 8))})})
        assert found.error_median == 1
        assert found.bias == -math.inf
        assert found.width == math.inf
        assert found.coverage == 0

    @pytest.mark.parametrize(
        ("interval", "covered", "width"),
        [
            ([5, 15], True, 3),
            ([10, 12], True, 1.2),
            ([8, 10], True, 1.25),
            ([10.1, 20.2], False, 2),
            ([4, 8], False, 2),
            ([8, None], True, math.inf),
            ([11, None], False, math.inf),
        ],
    )
    def test_intervals(self, summary, interval, covered, width):
        found = summary({"a": run()}, {"a": forecast({"loss<=0.5x": (10, interval)})})
        assert found.intervals == 1
        assert found.coverage == covered
        assert found.width == pytest.approx(width)

    def test_coverage_is_that_of_the_intervals_there_are(self, summary):
        answers = {
            "loss<=0.7x": (6, [5, 7]),
            "loss<=0.5x": (9, None),
            "loss<=0.3x": (None, [30, None]),
            "loss<=0.2x": (None, None),
            "val_accuracy>=0.9": (30, [20, 40]),  # not reached
        }
        found = summary({"a": run()}, {"a": forecast(answers)})
        assert found.intervals == 0.5
        assert found.coverage == 0.5
        none = summary({"a": run()}, {"a": forecast({"loss<=0.5x": 9})})
        assert none.intervals == 0
        assert none.coverage is none.width is None

    def test_trust(self, summary):
        runs = {key: run() for key in "abcd"}
        forecasts = {
            "a": forecast({"loss<=0.5x": 20}, trusted=False),
            "b": forecast({"loss<=0.5x": 11}, trusted=True),
            "c": forecast({"loss<=0.5x": 12}, trusted=True),
            "d": forecast({"loss<=0.5x": 90}, trusted=None),
        }
        found = summary(runs, forecasts)
        assert found.flagged == pytest.approx(1 / 3)
        assert found.error_flagged == pytest.approx(1)
        assert found.error_unflagged == pytest.approx(0.15)
        silent = summary({"a": run()}, {"a": forecast({"loss<=0.5x": 20})})
        assert silent.flagged is silent.error_flagged is silent.error_unflagged is None

    def test_cost_counts_once_a_run(self, summary):
        answers = {"loss<=0.7x": 6, "loss<=0.5x": 10, "loss<=0.3x": 18}
        forecasts = {
            "a": forecast(answers, seconds=20.0, forward_passes=480.0),
            "b": forecast({"loss<=0.7x": 6}, seconds=30.0, forward_passes=240.0),
        }
        found = summary({"a": run(), "b": run()}, forecasts)
        assert found.speedup_seconds == 2.5
        assert found.speedup_passes == 3  # 40 steps of 3 · 8, over 480 and over 240
        assert found.cost_in_steps == 15  # 480 and 240 over 3 · 8
        free = summary({"a": run()}, {"a": forecast(answers, seconds=0.0)})
        assert free.speedup_seconds == math.inf

    def test_what_is_not_answered_is_counted(self, summary):
        runs = {"a": run(), "b": run()}
        found = summary(runs, {"a": forecast({"loss<=0.5x": 10, "steps>=7": 7, "loss<=1": 9})})
        applies = 13
        assert found.runs == 2
        assert found.targets == 1
        assert found.missing == 2 * applies - 1
        assert found.error_median == 0

    def test_targets_met_before_training_are_left_out(self, summary):
        start = run(accuracy=(0.65, 0.7, 0.8, 0.85, 0.87))
        answers = {"val_accuracy>=0.5": 5, "val_accuracy>=0.6": 5, "val_accuracy>=0.7": 10}
        found = summary({"a": start}, {"a": forecast(answers)})
        assert found.targets == 1
        assert found.error_median == pytest.approx(0, abs=1e-4)

    def test_no_answer_at_all(self, summary):
        found = summary({"a": run()}, {"b": forecast({"loss<=0.5x": 10})})
        assert found == Summary(1, 0, 13, *[None] * 16, 0, None)


class TestDiverged:
    """Runs that diverge count for nothing else."""

    @pytest.mark.parametrize("end", [None, 4.1])
    @pytest.mark.parametrize(
        ("curve", "answers", "told"),
        [
            (None, {"loss<=0.7x": None, "loss<=0.5x": None, "val_accuracy>=0.5": 3}, True),
            (None, {"loss<=0.7x": 3, "loss<=0.5x": None}, False),
            (None, {"val_accuracy>=0.5": None}, False),
            ([4.0, 2.0, None, None, None], {"loss<=0.7x": 3}, True),
            ([4.0, 2.0, 3.0, 4.0, 5.0], {"loss<=0.7x": 3}, True),
            ([4.0, 2.0, 3.0, 3.0, 3.0], {"loss<=0.7x": 3}, False),
        ],
    )
    def test_is_told_by_the_curve_or_by_reaching_no_loss(self, summary, end, curve, answers, told):
        runs = {"a": run(loss=(4.0, 2.0, 3.0, 4.0, end)), "b": run(), "c": run(loss=[4.0] * 5)}
        trajectory = None if curve is None else run(loss=curve)["trajectory"]
        forecasts = {
            "a": forecast(answers, seconds=1e-3, trajectory=trajectory),
            "b": forecast({"loss<=0.5x": 10}),
        }
        found = summary(runs, forecasts)
        assert found.diverged == 1
        assert found.diverged_told == told
        assert found.runs == 2
        assert found.targets == 1
        assert found.speedup_seconds == 3

    def test_one_without_a_forecast_tells_nothing(self, summary):
        runs = {"a": run(loss=(4.0, 2.0, 3.0, 4.0, None)), "b": run()}
        found = summary(runs, {"b": forecast({"loss<=0.5x": 10})})
        assert found.diverged == 0
        assert found.diverged_told is None
        assert found.missing == 12

    def test_a_run_that_recovers_has_not(self, summary):
        runs = {"a": run(loss=(4.0, None, None, 2.0, 1.0))}
        found = summary(runs, {"a": forecast({"loss<=0.5x": 30})})
        assert found.diverged == 0
        assert found.error_median == 0


class TestGroups:
    @pytest.fixture
    def found(self, suite):
        variants = {
            "a": {"distance": "far", "optimizer": "adamw"},
            "b": {"distance": "near", "samples": 1000},
            "c": {"distance": "medium", "samples": 1001},
            "d": {"split": "held-out", "samples": 5000},
        }
        runs = {key: run(**options) for key, options in variants.items()}
        answers = {str(rule): 10 for rule in targets(40)}
        return score(suite(runs, {"ours": {key: forecast(answers) for key in runs}}))

    @pytest.mark.parametrize(
        ("by", "expected"),
        [
            (("split",), {("development",): 3, ("held-out",): 1}),
            (("distance",), {("near",): 2, ("medium",): 1, ("far",): 1}),
            (("optimizer",), {("adamw",): 1, ("sgd",): 3}),
            (("size",), {("<=1000 samples",): 2, (">1000 samples",): 2}),
        ],
    )
    def test_runs(self, found, by, expected):
        groups = found.summaries("ours", by)
        assert {key: value.runs for key, value in groups.items()} == expected
        assert list(groups) == list(expected)  # in this order

    def test_kinds_of_target(self, found):
        groups = found.summaries("ours", ("kind",))
        assert {key: value.targets for (key,), value in groups.items()} == {
            "loss fraction": 20,
            "accuracy": 24,
            "early stopping": 4,
            "best": 4,
        }

    @pytest.mark.parametrize("by", GROUPINGS)
    def test_share_all_targets_among_them(self, found, by):
        assert sum(value.targets for value in found.summaries("ours", by).values()) == 52

    def test_as_json(self, found, tmp_path):
        content = found.to_dict()
        found.save(tmp_path / "scores.json")
        assert json.loads((tmp_path / "scores.json").read_text()) == content
        first = content["scores"][0]
        assert first["forecaster"] == "ours"
        assert first["group"] == {"split": "development"}
        assert {frozenset(one["group"]) for one in content["scores"]} == set(
            map(frozenset, GROUPINGS)
        )
        assert first.keys() - Summary.__annotations__.keys() == {"forecaster", "group"}


@pytest.mark.parametrize("seed", range(10))
def test_against_a_plain_count(suite, seed):
    """Random runs and answers; every number anew, from the curves on."""
    random = np.random.default_rng(seed)
    budget, runs, forecasts, naive = 40, {}, {}, []
    for key in map(str, range(12)):
        loss = 4 * np.exp(-np.arange(5) * random.uniform(0.1, 1.2)) * random.uniform(0.9, 1.1, 5)
        runs[key] = run(loss=loss.tolist())
        answers = {}
        for rule in targets(budget)[:5]:
            goal = rule.relative * loss[0]
            fine = np.interp(np.arange(0, 40, 1e-3), [0, 10, 20, 30, 40], loss)
            real = 1e-3 * int((fine <= goal).argmax()) if (fine <= goal).any() else math.inf
            said = None if random.uniform() < 0.2 else random.uniform(2, 40)
            low = 0.8 * (said or 40)
            high = None if said is None else 1.3 * said
            answers[str(rule)] = (said, [low, high])
            naive.append((real, said or math.inf, low, high or math.inf))
        forecasts[key] = forecast(answers)
    found = score(suite(runs, {"ours": forecasts})).summaries("ours", ())[()]

    reached = [(real, *rest) for real, *rest in naive if real < math.inf]
    errors = sorted(abs(said / real - 1) for real, said, *_ in reached)
    close = {"rel": 1e-2}  # the plain clock ticks in thousandths
    assert found.targets == 60
    assert found.reached == len(reached) / 60
    assert found.missed == sum(said == math.inf for _, said, *_ in reached) / len(reached)
    assert found.error_median == pytest.approx(statistics.median(errors), **close)
    assert found.error_95 == pytest.approx(errors[math.ceil(0.95 * (len(errors) - 1))], **close)
    assert found.coverage == sum(low <= real <= high for real, _, low, high in reached) / len(
        reached
    )
    assert found.width == pytest.approx(
        statistics.median(high / low for _, _, low, high in reached)
    )
    never = [said for real, said, *_ in naive if real == math.inf]
    assert found.invented == (
        sum(said < math.inf for said in never) / len(never) if never else None
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_foresight_is_perfect(summary, optimizer, trajectory):
    real = run(optimizer=optimizer)
    curves = real["trajectory"]
    rows = [np.array(curves["train"][name]) for name in ("loss", "accuracy")]
    whole = trajectory(curves["steps"], *rows, tuple(rows))
    steps = {str(rule): float(rule.steps(whole)[0]) for rule in targets(40)}
    answers = {
        rule: (None, None) if value == math.inf else (value, [value, value])
        for rule, value in steps.items()
    }
    found = summary({"a": real}, {"a": forecast(answers)})
    assert found.targets == 13
    assert found.error_median == found.error_95 == found.bias == found.missed == found.invented == 0
    assert found.within_15 == found.coverage == found.width == found.intervals == 1


class TestImpossible:
    """One line that names the folder or the file."""

    @pytest.fixture
    def good(self, suite):
        return suite({"a": run()}, {"ours": {"a": forecast({"loss<=0.5x": 10})}})

    def test_no_folder(self, refused, tmp_path):
        with refused(f"suite: '{tmp_path / 'none' / 'runs'}' is missing or empty; expected "):
            score(tmp_path / "none")

    @pytest.mark.parametrize("name", ["runs", "forecasts", "forecasts/ours"])
    def test_an_empty_folder(self, refused, good, name):
        for path in sorted((good / name).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        with refused(f"suite: '{good / name}' is missing or empty; expected "):
            score(good)

    @pytest.mark.parametrize("name", ["runs/a.json", "forecasts/ours/a.json"])
    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", "3", "null", '{"trajectory": 1, "targets": 1}', "\ud800"]
    )
    def test_a_file_that_cannot_be_read(self, refused, good, name, text):
        (good / name).write_bytes(text.encode(errors="surrogatepass"))
        with refused(f"suite: '{good / name}' cannot be read ("):
            score(good)

    @pytest.mark.parametrize(
        "change",
        [
            {"targets": {"soon": {"steps": 1, "interval": None}}},
            {"targets": {"loss<=0.5x": {"steps": "one", "interval": None}}},
            {"targets": {"loss<=0.5x": {"steps": 1}}},
            {"targets": {"loss<=0.5x": {"steps": 1, "interval": [1]}}},
            {"targets": {"loss<=0.5x": 1}},
            {"seconds": None},
            {"trajectory": {}},
        ],
        ids=str,
    )
    def test_a_forecast_that_is_none(self, refused, good, change):
        path = good / "forecasts" / "ours" / "a.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with refused(f"suite: '{path}' cannot be read ("):
            score(good)

    @pytest.mark.parametrize("length", [4, 6])
    def test_curves_of_another_length_than_their_steps(self, refused, good, length):
        path = good / "runs" / "a.json"
        path.write_text(json.dumps(run(loss=[1.0] * length)))
        with refused(f"suite: '{path}' cannot be read (ValueError"):
            score(good)

    def test_other_files_are_passed_over(self, good):
        (good / "runs" / "b.json.part").write_text("{")
        (good / "forecasts" / "README.md").write_text("")
        (good / "forecasts" / "ours" / "notes.txt").write_text("")
        assert score(good).summaries("ours", ())[()].targets == 1
