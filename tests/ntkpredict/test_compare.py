import dataclasses

import numpy as np
import optax
import pytest

import ntkpredict as ntp
from ntkpredict import cost as measure
from ntkpredict.ranking import critical_batch_size, pareto_front, probability_best

from . import problems
from .test_cost import Clock

UNTIL = ntp.TargetLoss(relative=0.5)
SIZES = {"max_steps": 60}


def narrow():
    """As many features as directions, so that features do not depend on who asks."""
    return problems.mlp(hidden=4)


def ranked(network, data, plans, until=UNTIL, **options):
    return ntp.compare(network, data, plans, until, clock=Clock(0.25), **options)


def assert_is_the_forecast(candidate, network, data, plan, until, **options):
    options |= {"solver": "replay", "opening": False, "clock": Clock(0.25)}
    alone = ntp.predict(network, data, plan, until, **options)
    assert candidate.plan == alone.plan
    assert (candidate.steps is None) == (alone.steps is None)
    for name in ("steps", "steps_interval", "seconds", "seconds_interval"):
        got, expected = getattr(candidate, name), getattr(alone, name)
        assert (got is None) == (expected is None), name
        if got is not None:
            np.testing.assert_allclose(
                np.array(got, float), np.array(expected, float), rtol=1e-3, err_msg=name
            )
    np.testing.assert_allclose(candidate.stopping_times, alone.stopping_times, rtol=1e-3)
    assert candidate.validity.word == alone.validity.word
    assert candidate.validity.error == pytest.approx(alone.validity.error, rel=1e-3)
    assert (candidate.stability is None) == (alone.stability is None)
    if alone.stability is not None:
        assert candidate.stability.margin == pytest.approx(alone.stability.margin, rel=1e-3)
    median = alone.trajectory.first(len(candidate.trajectory.steps)).quantile(0.5)
    np.testing.assert_array_equal(candidate.trajectory.steps, median.steps)
    np.testing.assert_allclose(candidate.trajectory.train.loss, median.train.loss, rtol=1e-3)


class TestEveryPlanIsItsForecast:
    @pytest.mark.parametrize(
        "plan",
        [
            ntp.Plan.adamw(0.02, batch_size=8, **SIZES),
            ntp.Plan(optax.chain(optax.clip_by_global_norm(0.2), optax.sgd(0.5)), 8, 60),
        ],
        ids=lambda plan: plan.name,
    )
    def test_alone_on_some_of_the_samples(self, mlp, data, plan):
        (only,) = ranked(mlp, data, [plan], samples=36, seeds=2).candidates
        assert_is_the_forecast(only, mlp, data, plan, UNTIL, samples=36, seeds=2)

    def test_with_others_on_the_same_features(self, data):
        network = narrow()
        plans = [
            ntp.Plan.sgd(0.01, batch_size=8, **SIZES),
            ntp.Plan.sgd(0.1, batch_size=8, schedule="cosine", **SIZES),
            ntp.Plan.sgd(0.1, momentum=0.5, batch_size=16, **SIZES),
        ]
        ranking = ranked(network, data, plans, seeds=2)
        by_plan = {candidate.plan: candidate for candidate in ranking.candidates}
        assert len(by_plan) == len(plans)
        for plan in plans:
            assert_is_the_forecast(by_plan[plan.description], network, data, plan, UNTIL, seeds=2)

    @pytest.mark.parametrize("until", [ntp.EarlyStopping(1, 5), ntp.MaxSteps(30) | UNTIL], ids=str)
    def test_whatever_the_rule(self, linear, data, until):
        plan = ntp.Plan.sgd(0.05, batch_size=8, **SIZES)
        (only,) = ranked(linear, data, [plan], until, seeds=2).candidates
        assert_is_the_forecast(only, linear, data, plan, until, seeds=2)

    def test_without_a_head(self, linear, data):
        headless = ntp.Network.from_function(linear.function, linear.params)
        plan = ntp.Plan.sgd(0.05, batch_size=8, **SIZES)
        (only,) = ranked(headless, data, [plan], seeds=1).candidates
        assert_is_the_forecast(only, headless, data, plan, UNTIL, seeds=1)


@pytest.fixture(scope="module")
def ranking(linear, data):
    """Three learning rates, the last of which diverges, and two batch sizes."""
    plans = ntp.Plan.grid(
        [0.005, 0.02, 50.0], [8, 16], momentum=0.5, max_steps=200, loss="squared_error"
    )
    return ranked(linear, data, plans, ntp.TargetLoss(relative=0.7))


class TestRanking:
    def test_the_best_comes_first(self, ranking):
        seconds = [c.value("seconds") for c in ranking.candidates]
        assert seconds == sorted(seconds)
        assert ranking.best is ranking.candidates[0]
        assert ranking.best.learning_rate == 0.02

    def test_simulation_ends_with_what_counts(self, ranking):
        for candidate in ranking.candidates:
            if candidate.steps is not None:
                assert candidate.steps < candidate.trajectory.steps[-1] < 200

    def test_divergence_is_shown_as_such(self, ranking):
        for candidate in ranking.candidates[-2:]:
            assert candidate.learning_rate == 50
            assert candidate.diverged
            assert candidate.steps is None
            assert candidate.reason.startswith("diverges")
            assert candidate.stability.margin < 1

    def test_probabilities(self, ranking):
        assert ranking.probability_best.sum() == pytest.approx(1, abs=0.01)
        np.testing.assert_array_equal(ranking.probability_best[-2:], 0)
        assert ranking.probability_best[0] == ranking.probability_best.max()

    def test_steps_by_batch_size(self, ranking):
        ((name, rows),) = ranking.steps_by_batch_size.items()
        assert name == "sgd, momentum 0.5"
        assert [size for size, _ in rows] == [8, 16]
        assert dict(rows)[ranking.best.batch_size] == ranking.best.steps
        assert ranking.noise_scale > 0

    def test_it_is_written_and_read(self, ranking, tmp_path):
        ranking.save(tmp_path / "r.json")
        read = ntp.Ranking.load(tmp_path / "r.json")
        assert read.to_dict() == ranking.to_dict()
        assert read.best.value("loss") == ranking.best.value("loss")

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "is not a ranking ("),
            ("{}", "is not a ranking ("),
            ("[]", "is not a ranking ("),
            ('{"format": 99}', "has format 99, this version reads 1; upgrade"),
            ('{"format": 1}', "is damaged ("),
        ],
    )
    def test_what_is_none_is_refused(self, refused, tmp_path, text, why):
        path = tmp_path / "r.json"
        path.write_text(text)
        with refused(f"path: {str(path)!r} {why}"):
            ntp.Ranking.load(path)


class TestAmong:
    """Candidates by hand."""

    @pytest.fixture
    def candidate(self, ranking):
        def build(seconds, price, loss, **changes):
            return dataclasses.replace(
                ranking.best, steps=seconds, seconds=seconds, price=price,
                validation_loss=loss, **changes,
            )  # fmt: skip

        return build

    def test_the_front_is_what_nothing_beats(self, candidate):
        rows = [
            candidate(1.0, 3.0, 0.5),
            candidate(2.0, 2.0, 0.5),
            candidate(2.0, 3.0, 0.5),
            candidate(9.0, 9.0, 0.4),
            candidate(None, None, 0.1),
            candidate(1.0, 3.0, 0.5),
            candidate(0.5, 1.0, 0.0, diverged=True),
        ]
        assert pareto_front(rows).tolist() == [True, True, False, True, False, True, False]

    def test_the_probability_of_being_best_follows_the_outcomes(self, candidate):
        count = len(candidate(1.0, None, 0.1).stopping_times)
        sure = candidate(10.0, None, 0.1, stopping_times=np.full(count, 10.0), plan="sure")
        times = np.resize([5.0, 5.0, 5.0, np.inf], count)
        risky = candidate(9.0, None, 0.1, stopping_times=times)
        found = probability_best([risky, sure], "steps")
        np.testing.assert_allclose(found, [0.75, 0.25], atol=0.04)
        faster = dataclasses.replace(risky, seconds_per_step=0.9 * risky.seconds_per_step)
        found = probability_best([risky, faster], "seconds")  # errors are of steps, alike on both
        np.testing.assert_allclose(found, [0, 0.75], atol=0.04)
        never = candidate(None, None, 0.1, stopping_times=np.full(count, np.inf))
        np.testing.assert_array_equal(probability_best([never], "steps"), [0])
        wild = candidate(10.0, None, 0.0, stopping_times=sure.stopping_times, diverged=True)
        for criterion in ("steps", "loss", "seconds"):
            assert wild.value(criterion) == np.inf
            np.testing.assert_array_equal(probability_best([wild], criterion), [0])

    @pytest.mark.parametrize("critical", [20.0, 500.0])
    def test_the_critical_batch_size_is_that_of_the_curve(self, critical):
        rows = [(size, 100 * (1 + critical / size)) for size in (16, 32, 128)]
        assert critical_batch_size(rows) == pytest.approx(critical)

    def test_there_may_be_none(self):
        assert critical_batch_size([(16, 100.0)]) is None
        assert critical_batch_size([(16, 100.0), (32, 120.0)]) is None


class TestMachinesAndBudgets:
    PLANS = ntp.Plan.grid([0.01, 0.05], [8], max_steps=60)

    def test_machines_differ_in_seconds_and_price(self, linear, data):
        machines = [ntp.Machine(), ntp.Machine("fast", 7200.0, 2.0)]
        found = ranked(linear, data, self.PLANS, machines=machines).candidates
        assert len(found) == 4
        here = {c.plan: c for c in found if c.machine.price is None}
        for candidate in (c for c in found if c.machine.name == "fast"):
            other = here[candidate.plan]
            assert candidate.steps == other.steps
            assert candidate.seconds == pytest.approx(other.seconds / 2)
            assert candidate.price == pytest.approx(2 * candidate.seconds)
            assert candidate.price_interval == pytest.approx(
                tuple(2 * end for end in candidate.seconds_interval)
            )
            assert other.price is None

    def test_a_budget_tells_how_far_each_plan_gets(self, linear, data):
        ranking = ranked(linear, data, self.PLANS, None, within=ntp.Budget(20, "steps"))
        assert ranking.criterion == "loss"
        best, other = ranking.candidates
        assert best.steps == other.steps == 20
        assert best.validation_loss < other.validation_loss
        for candidate, plan in ((best, self.PLANS[1]), (other, self.PLANS[0])):
            alone = ntp.predict(linear, data, plan, ntp.MaxSteps(20), seeds=1).trajectory
            expected = [np.interp(20, alone.steps, row) for row in alone.validation.loss]
            assert candidate.validation_loss == pytest.approx(np.median(expected), rel=1e-3)

    def test_a_plan_that_diverges_is_not_the_best_use_of_a_budget(self, linear, data):
        plans = ntp.Plan.grid([50.0, 0.02], [8], max_steps=60, loss="squared_error")
        ranking = ranked(linear, data, plans, None, within=ntp.Budget(20, "steps"))
        assert [c.learning_rate for c in ranking.candidates] == [0.02, 50.0]
        assert [c.steps for c in ranking.candidates] == [20, 20]
        assert ranking.candidates[1].reason.startswith("diverges")
        np.testing.assert_array_equal(ranking.probability_best, [1, 0])

    def test_a_budget_of_time_pays_for_fewer_steps_on_slower_machines(self, linear, data):
        speeds = {"fast": 1.0, "slow": 0.5, "snail": 1e-9}
        machines = [ntp.Machine(name, throughput=speed) for name, speed in speeds.items()]
        ranking = ranked(linear, data, self.PLANS, None, within=ntp.Budget(10.0), machines=machines)
        limits = {c.machine.name: c.limit for c in ranking.candidates}
        assert limits["snail"] == 0 < limits["slow"] < limits["fast"] < 60
        assert ranking.best.machine.name == "fast"
        for candidate in ranking.candidates:
            assert candidate.value("seconds") <= 10 or candidate.steps is None
            assert (candidate.steps is None) == (candidate.machine.name == "snail")

    def test_a_target_beyond_the_budget_is_not_reached(self, linear, data):
        ranking = ranked(linear, data, self.PLANS, within=ntp.Budget(1, "steps"))
        assert ranking.criterion == "seconds"
        assert ranking.best is None
        for candidate in ranking.candidates:
            assert candidate.reason == "not reached within 1 steps, all that 1steps pays for"
            assert np.isinf(candidate.stopping_times).all()

    @pytest.mark.parametrize(
        ("text", "budget"),
        [
            ("20min", ntp.Budget(1200.0, "s")),
            ("1.5 h", ntp.Budget(5400.0, "s")),
            ("90s", ntp.Budget(90.0, "s")),
            ("2d", ntp.Budget(172800.0, "s")),
            ("5USD", ntp.Budget(5.0, "USD")),
            ("1e3steps", ntp.Budget(1000.0, "steps")),
        ],
    )
    def test_budgets_are_read(self, text, budget):
        assert ntp.Budget.parse(text) == budget
        assert ntp.Budget.parse(str(budget)) == budget

    @pytest.mark.parametrize("text", ["", "20", "min", "20 EUR", "1e3e3s", "a100"])
    def test_what_is_no_budget(self, refused, text):
        with refused(f"within: got {text!r}; expected such as 20min"):
            ntp.Budget.parse(text)

    @pytest.mark.parametrize("text", ["0s", "-1s", "nans", "infh"])
    def test_budgets_of_nothing(self, text):
        with pytest.raises(ValueError, match=r"^(amount|within): got"):
            ntp.Budget.parse(text)

    @pytest.mark.parametrize(
        ("text", "machine"),
        [
            ("a100", ntp.Machine("a100")),
            ("a100:0.8x", ntp.Machine("a100", None, 0.8)),
            ("a100:3.2USD/h", ntp.Machine("a100", 3.2)),
            ("a100:3.2USD/h:0.8x", ntp.Machine("a100", 3.2, 0.8)),
        ],
    )
    def test_machines_are_read(self, text, machine):
        assert ntp.Machine.parse(text) == machine

    @pytest.mark.parametrize("text", ["", ":3USD/h", "a:3", "a:3EUR/h", "a:1x:3USD/h", "a:--1x"])
    def test_what_is_no_machine(self, refused, text):
        with refused(f"machine: got {text!r}; expected NAME"):
            ntp.Machine.parse(text)

    @pytest.mark.parametrize(("text", "name"), [("a:0x", "throughput"), ("a:-1USD/h", "price")])
    def test_machines_out_of_range(self, refused, text, name):
        with refused(f"{name}: got"):
            ntp.Machine.parse(text)


class TestRefused:
    PLAN = ntp.Plan.sgd(0.05, batch_size=8, max_steps=20)

    @pytest.mark.parametrize(
        ("plans", "message"),
        [
            ([], "plans: got none"),
            ([PLAN, ntp.Plan.sgd(0.1, max_steps=30)], "plans: their max_steps are"),
            ([PLAN, dataclasses.replace(PLAN, seed=1)], "plans: their seed are"),
            ([dataclasses.replace(PLAN, batch_size=100)], "batch_size: got 100"),
            ([PLAN, ntp.Plan(optax.adagrad(0.1), 8, 20)], "optimizer: "),
        ],
    )
    def test_plans(self, refused, linear, data, plans, message):
        with refused(message):
            ntp.compare(linear, data, plans, UNTIL)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"criterion": "accuracy"}, "criterion"),
            ({"criterion": "price"}, "machines: this machine has no price"),
            ({"machines": []}, "machines: got none"),
            ({"samples": 1}, "samples: got 1"),
            ({"seeds": 0}, "seeds: got 0"),
            ({"patience": 0.5}, "patience: got 0.5"),
            ({"within": ntp.Budget(5, "USD")}, "within: 5USD needs a price"),
        ],
    )
    def test_options(self, linear, data, options, message):
        with pytest.raises(Exception, match=message):
            ntp.compare(linear, data, [self.PLAN], UNTIL, **options)

    def test_a_target_that_is_met(self, refused, linear, data):
        with refused("target: the train loss starts at"):
            ntp.compare(linear, data, [self.PLAN], ntp.TargetLoss(1000.0))

    def test_grids(self, refused):
        with refused("optimizer: got 'adam'; expected one of"):
            ntp.Plan.grid([0.1], [8], ["adam"])


class TestCosts:
    def test_in_between_is_interpolated(self, linear, data):
        plans = ntp.Plan.grid([0.05], [8, 16, 40], max_steps=20)
        clock = Clock(0.25)
        costs = measure.measure_costs(linear, data, plans, interpolate=True, clock=clock)
        assert [cost.batches > 0 for cost in costs.values()] == [True, False, True]
        assert costs[16].batch_seconds == (0.25, 0.25, 0.25)
        assert costs[16].validation_seconds == costs[8].validation_seconds

    def test_between_is_in_proportion(self):
        low = ntp.CostModel(1.0, (1.0, 2.0, 3.0), 0.5, 20)
        high = ntp.CostModel(3.0, (3.0, 6.0, 9.0), 0.7, 20)
        found = measure._between({10: low, 50: high}, 20)
        assert found == ntp.CostModel(1.5, (1.5, 3.0, 4.5), 0.5, 0)

    @pytest.mark.parametrize("epoch", [1, 7, 1000])
    @pytest.mark.parametrize("seconds", [0.0, 1.0, 9.9, 33.3, 300.0])
    def test_the_most_steps_are_those_that_fit(self, epoch, seconds):
        cost = ntp.CostModel(1.0, (0.1, 0.7, 1.0), 2.0, 20)
        steps = cost.steps(seconds, epoch)
        assert steps >= 0
        assert cost.seconds(float(steps), epoch) <= seconds or steps == 0
        assert cost.seconds(steps + 1.0, epoch) > seconds
