import itertools
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from ntkpredict.data import subset_index, take
from ntkpredict.step import TrainingStep
from sde import log_grid, minibatch_order

from . import resumable

CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels


def assert_same_curves(run, other):
    """Bit for bit, on all splits."""
    np.testing.assert_array_equal(run.trajectory.steps, other.trajectory.steps)
    for split in ("train", "validation"):
        one, two = getattr(run.trajectory, split), getattr(other.trajectory, split)
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_array_equal(one.loss, two.loss)
            np.testing.assert_array_equal(one.accuracy, two.accuracy)
    np.testing.assert_array_equal(run.batch_loss, other.batch_loss)


class TestStep:
    def test_gives_the_loss_before_it(self, mlp, data, plan):
        step, index = TrainingStep(mlp, data, plan), np.arange(5, 13)
        first, loss = step(step.initial(), index)
        _, after = step(first, index)
        outputs = mlp.apply(mlp.params, data.train[0][index])
        assert loss == pytest.approx(float(CROSS_ENTROPY(outputs, data.train[1][index]).mean()))
        assert after < loss  # a step on these samples has been taken


class TestBatchLoss:
    def test_is_that_of_a_plain_loop_before_each_step(self, mlp, data):
        plan = ntp.Plan.adamw(0.02, batch_size=7, max_steps=15, seed=2)
        run = ntp.train(mlp, data, plan)
        inputs, labels = map(jnp.asarray, data.train)

        @jax.jit
        def step(params, state, index):
            loss, gradient = jax.value_and_grad(
                lambda p: CROSS_ENTROPY(mlp.apply(p, inputs[index]), labels[index]).mean()
            )(params)
            updates, state = plan.optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, loss

        params, state, expected = mlp.params, plan.optimizer.init(mlp.params), []
        for index in minibatch_order(data.samples, 7, 15, 2):
            params, state, loss = step(params, state, index)
            expected.append(loss)
        np.testing.assert_allclose(run.batch_loss, expected, rtol=2e-5)

    def test_is_one_a_step_taken(self, linear, data):
        plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=100)
        stopped = ntp.train(linear, data, plan, ntp.TargetLoss(relative=0.6))
        assert stopped.batch_loss.shape == (stopped.trained_steps,)
        assert stopped.trained_steps < 100
        whole = ntp.train(linear, data, plan)
        np.testing.assert_array_equal(stopped.batch_loss, whole.batch_loss[: stopped.trained_steps])
        assert stopped.to_dict()["batch_loss"] == stopped.batch_loss.tolist()

    def test_of_full_batches_is_the_curve(self, linear, data):
        plan = ntp.Plan.sgd(0.05, batch_size=48, max_steps=5)
        run = ntp.train(linear, data, plan, evaluations=np.arange(6))
        np.testing.assert_allclose(run.batch_loss, run.trajectory.train.loss[0, :-1], rtol=1e-5)


class TestEvaluations:
    PLAN = ntp.Plan.sgd(0.05, batch_size=8, max_steps=30)

    def test_are_made_at_the_given_steps_and_change_nothing_else(self, mlp, data):
        every = ntp.train(mlp, data, self.PLAN, evaluations=np.arange(31))
        grid = np.array([0, 3, 4, 17, 30])
        some = ntp.train(mlp, data, self.PLAN, evaluations=grid)
        np.testing.assert_array_equal(some.trajectory.steps, grid)
        for split in ("train", "validation"):
            one, two = getattr(every.trajectory, split), getattr(some.trajectory, split)
            np.testing.assert_array_equal(one.loss[:, grid], two.loss)
            np.testing.assert_array_equal(one.accuracy[:, grid], two.accuracy)
        np.testing.assert_array_equal(every.batch_loss, some.batch_loss)
        jax.tree.map(np.testing.assert_array_equal, every.params, some.params)

    def test_are_where_training_may_stop(self, linear, data):
        rule = ntp.TargetLoss(relative=0.8)
        run = ntp.train(linear, data, self.PLAN, rule, evaluations=np.array([0, 11, 22, 30]))
        loss = run.trajectory.train.loss[0]
        assert run.trained_steps == run.trajectory.steps[-1]
        assert run.trained_steps in (11, 22, 30)
        assert loss[-1] <= 0.8 * loss[0] < loss[-2]

    def test_are_also_where_the_rule_asks_for_them(self, linear, data):
        rule = ntp.EarlyStopping(patience=30, every=7)
        run = ntp.train(linear, data, self.PLAN, rule)
        expected = np.union1d(log_grid(30), [7, 14, 21, 28])
        np.testing.assert_array_equal(run.trajectory.steps, expected)
        some = ntp.train(linear, data, self.PLAN, rule, evaluations=np.array([0, 11, 30]))
        np.testing.assert_array_equal(some.trajectory.steps, [0, 11, 30])  # as told

    @pytest.mark.parametrize(
        "grid", [[0], [1, 30], [0, 29], [0, 31], [0, 5, 5, 30], [0, 7, 3, 30]], ids=str
    )
    def test_go_from_0_to_the_budget(self, linear, data, refused, grid):
        with refused("evaluations: got [") as caught:
            ntp.train(linear, data, self.PLAN, evaluations=np.array(grid))
        assert "expected increasing steps from 0 to 30" in str(caught.value)

    @pytest.mark.parametrize("samples", [10, 24, 1024])
    def test_read_so_many_samples(self, linear, data, samples):
        run = ntp.train(linear, data, self.PLAN, ntp.MaxSteps(1), evaluation_samples=samples)
        for split, curve in (
            (data.train, run.trajectory.train),
            (data.validation, run.trajectory.validation),
        ):
            inputs, labels = take(split, subset_index(len(split[1]), samples))
            loss = CROSS_ENTROPY(linear.apply(linear.params, inputs), labels).mean()
            assert curve.loss[0, 0] == pytest.approx(float(loss), rel=1e-5)


class TestCurves:
    @pytest.mark.parametrize(
        "plan",
        [
            ntp.Plan.sgd(0.1, batch_size=8, max_steps=40),
            ntp.Plan.sgd(0.1, batch_size=7, max_steps=40, nesterov=True, weight_decay=0.01, seed=3),
            ntp.Plan.adamw(0.01, batch_size=48, max_steps=25, schedule="cosine"),
            ntp.Plan(optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5)), 16, 30),
        ],
        ids=lambda plan: plan.description,
    )
    def test_are_those_of_a_plain_loop_on_the_same_minibatches(self, mlp, data, plan, naive_curve):
        run = ntp.train(mlp, data, plan)
        orders = minibatch_order(data.samples, plan.batch_size, plan.max_steps, plan.seed)
        steps = [*run.trajectory.steps]
        np.testing.assert_array_equal(steps, log_grid(plan.max_steps))
        expected = naive_curve(
            mlp.apply, mlp.params, data.train, plan.optimizer, orders, steps, CROSS_ENTROPY
        )
        np.testing.assert_allclose(run.trajectory.train.loss[0], expected, rtol=2e-5, atol=1e-6)
        assert run.trained_steps == plan.max_steps
        assert run.steps is None

    def test_the_last_point_is_that_of_the_trained_weights(self, mlp, data, plan):
        run = ntp.train(mlp, data, plan)
        for split, curve in (
            (data.train, run.trajectory.train),
            (data.validation, run.trajectory.validation),
        ):
            outputs = mlp.apply(run.params, split[0])
            np.testing.assert_allclose(
                curve.loss[0, -1], CROSS_ENTROPY(outputs, split[1]).mean(), rtol=1e-5
            )
            hits = np.asarray(outputs).argmax(1) == split[1]
            np.testing.assert_allclose(curve.accuracy[0, -1], hits.mean(), rtol=1e-6)

    def test_of_regression(self, linear, data, naive_curve):
        targets = np.random.default_rng(0).normal(size=(data.samples, 3)).astype(np.float32)
        split = (data.train[0], targets)
        plan = ntp.Plan.sgd(0.02, batch_size=8, max_steps=20, loss="squared_error")
        run = ntp.train(linear, ntp.Data(split), plan)
        orders = minibatch_order(data.samples, 8, 20, 0)
        expected = naive_curve(
            linear.apply,
            linear.params,
            split,
            plan.optimizer,
            orders,
            [*run.trajectory.steps],
            lambda outputs, targets: ((outputs - targets) ** 2).sum(-1) / 2,
        )
        np.testing.assert_allclose(run.trajectory.train.loss[0], expected, rtol=2e-5)
        assert run.trajectory.validation is None

    def test_only_what_trains_moves(self, frozen_mlp, data, plan):
        run = ntp.train(frozen_mlp, data, plan)
        assert run.params["body"] is None
        assert run.trajectory.train.loss[0, -1] < run.trajectory.train.loss[0, 0]

    def test_the_network_is_not_changed(self, mlp, data, plan):
        before = jax.tree.map(np.array, mlp.params)
        ntp.train(mlp, data, plan)
        jax.tree.map(np.testing.assert_array_equal, mlp.params, before)

    def test_are_the_same_each_time_and_others_for_another_seed(self, mlp, data):
        def run(seed):
            return ntp.train(mlp, data, ntp.Plan.sgd(0.1, batch_size=8, max_steps=20, seed=seed))

        first = run(0)
        assert_same_curves(run(0), first)
        assert (run(1).trajectory.train.loss != first.trajectory.train.loss).any()

    def test_a_diverging_run_ends_without_an_error(self, linear, data):
        plan = ntp.Plan.sgd(1e8, batch_size=8, max_steps=30, loss="squared_error")
        run = ntp.train(linear, data, plan, ntp.TargetLoss(relative=0.5))
        assert not np.isfinite(run.trajectory.train.loss[0, -1])
        assert run.steps is None
        assert run.trained_steps == 30
        json.dumps(run.to_dict(), allow_nan=False)

    def test_inputs_may_be_a_tree(self, linear, data, plan):
        points, labels = data.train
        split = {"left": points[:, :2], "right": points[:, 2:]}, labels
        network = ntp.Network.from_function(
            lambda params, x: linear.apply(params, jnp.concatenate([x["left"], x["right"]], 1)),
            linear.params,
        )
        one = ntp.train(network, ntp.Data(split), plan)
        other = ntp.train(linear, ntp.Data(data.train), plan)
        np.testing.assert_allclose(
            one.trajectory.train.loss, other.trajectory.train.loss, rtol=1e-5
        )


class TestEvaluation:
    @pytest.mark.parametrize("samples", [10, 48, 1024])
    def test_reads_the_same_samples_each_time_and_all_where_few(self, mlp, data, plan, samples):
        step = TrainingStep(mlp, data, plan, evaluation_samples=samples)
        loss, accuracy = step.evaluate(mlp.params, "train")
        assert (loss, accuracy) == step.evaluate(mlp.params, "train")
        assert step.evaluated == {"train": min(samples, 48), "validation": min(samples, 24)}
        everything = float(
            CROSS_ENTROPY(mlp.apply(mlp.params, data.train[0]), data.train[1]).mean()
        )
        assert (loss == pytest.approx(everything, rel=1e-5)) == (samples >= data.samples)

    @pytest.mark.parametrize("samples", [255, 256, 257, 600])
    def test_batches_of_it_do_not_show(self, linear, data, samples):
        random = np.random.default_rng(0)
        points = random.normal(size=(samples, 5)).astype(np.float32)
        labels = random.integers(0, 3, samples)
        plan = ntp.Plan.sgd(0.1, batch_size=8)
        step = TrainingStep(linear, ntp.Data((points, labels)), plan)
        loss, accuracy = step.evaluate(linear.params, "train")
        outputs = linear.apply(linear.params, points)
        assert loss == pytest.approx(float(CROSS_ENTROPY(outputs, labels).mean()), rel=1e-5)
        assert accuracy == pytest.approx((np.asarray(outputs).argmax(1) == labels).mean())


class TestStopping:
    def test_at_a_target(self, linear, data):
        plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=500)
        run = ntp.train(linear, data, plan, ntp.TargetLoss(relative=0.6))
        loss = run.trajectory.train.loss[0]
        assert loss[-1] <= 0.6 * loss[0] < loss[-2]
        assert run.trajectory.steps[-2] < run.steps <= run.trained_steps < 500
        assert run.trained_steps == run.trajectory.steps[-1]

    def test_what_follows_the_target_does_not_change_what_came_before(self, linear, data):
        plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=100)
        whole = ntp.train(linear, data, plan)
        part = ntp.train(linear, data, plan, ntp.TargetLoss(relative=0.6))
        count = len(part.trajectory.steps)
        assert count < len(whole.trajectory.steps)
        np.testing.assert_array_equal(
            part.trajectory.train.loss[0], whole.trajectory.train.loss[0, :count]
        )

    def test_of_two_rules_at_the_first(self, linear, data):
        plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=100)
        run = ntp.train(linear, data, plan, ntp.MaxSteps(5) | ntp.TargetLoss(relative=0.1))
        assert run.steps == 5
        assert run.trained_steps == 5

    def test_not_reached_is_none_after_the_whole_budget(self, linear, data, plan):
        run = ntp.train(linear, data, plan, ntp.TargetLoss(1e-6))
        assert run.steps is None
        assert run.trained_steps == plan.max_steps

    @pytest.mark.parametrize("eps", [0.02, 0.3])
    def test_convergence_is_known_in_hindsight(self, linear, data, plan, eps):
        run = ntp.train(linear, data, plan, ntp.Converged(eps))
        assert run.trained_steps == plan.max_steps
        loss = run.trajectory.train.loss[0]
        first = np.argmax(np.abs(loss - loss[-1]) < eps)
        assert run.trajectory.steps[first - 1] < run.steps <= run.trajectory.steps[first]

    def test_a_target_above_the_start_is_refused(self, linear, data, plan, refused):
        with refused("target: the train loss starts at "):
            ntp.train(linear, data, plan, ntp.TargetLoss(100.0))

    def test_validation_without_any(self, linear, training_data, plan, refused):
        with refused("on: got 'validation', but there is no validation data"):
            ntp.train(linear, training_data, plan, ntp.TargetLoss(0.1, on="validation"))


class TestRefused:
    def test_a_batch_larger_than_the_data(self, linear, data, refused):
        with refused("batch_size: got 49; expected 1..48"):
            ntp.train(linear, data, ntp.Plan.sgd(0.1, batch_size=49))

    def test_labels_out_of_range(self, linear, data, refused):
        labels = data.train[1].copy()
        labels[7] = 3
        with refused("labels: got 3; expected 0..2"):
            ntp.train(linear, ntp.Data((data.train[0], labels)), ntp.Plan.sgd(0.1))

    def test_inputs_of_another_shape(self, linear, data, plan, refused):
        with refused("inputs: linear does not accept shape "):
            ntp.train(linear, ntp.Data((data.train[0][:, :3], data.train[1])), plan)

    @pytest.mark.parametrize("every", [0, -5])
    def test_checkpoints_every_none(self, linear, data, plan, refused, every):
        with refused(f"checkpoint_every: got {every}; expected at least 1"):
            ntp.train(linear, data, plan, checkpoint_every=every)


class TestReporting:
    def test_progress_goes_to_the_budget(self, linear, data, plan):
        seen = []
        ntp.train(linear, data, plan, progress=lambda *arguments: seen.append(arguments))
        done = [step for step, _ in seen]
        assert done == [*log_grid(plan.max_steps)[1:]]
        assert {total for _, total in seen} == {plan.max_steps}

    def test_time_is_split_by_the_clock(self, linear, data, plan):
        looks = itertools.count(0.0)
        run = ntp.train(linear, data, plan, clock=lambda: next(looks))
        segments = len(run.trajectory.steps) - 1
        assert run.seconds == segments - 1  # the first one compiles
        assert run.overhead_seconds >= segments + 1

    def test_save(self, linear, data, plan, tmp_path):
        run = ntp.train(linear, data, plan, ntp.TargetLoss(relative=0.5))
        run.save(tmp_path / "run.json")
        content = json.loads((tmp_path / "run.json").read_text())
        assert content == run.to_dict()
        assert content["steps"] == run.steps
        assert content["trajectory"]["train"]["loss"] == run.trajectory.train.loss.tolist()
        assert "params" not in content


def finished_checkpoints(folder):
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


class TestResume:
    STEPS, EVERY = 1500, 50

    def start(self, folder):
        # The same compiler settings as in this process, or the last bit may differ.
        flag = str(int(jax.config.read("jax_disable_most_optimizations")))
        return subprocess.Popen(
            [sys.executable, resumable.__file__, str(folder), str(self.STEPS), str(self.EVERY)],
            stdout=subprocess.PIPE,
            env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": flag},
            text=True,
        )

    def killed(self, folder, after):
        """Kill a run once it has this many more checkpoints; the last step it told of."""
        before = max(finished_checkpoints(folder), default=0)
        with self.start(folder) as child:
            try:
                deadline = time.monotonic() + 120
                while max(finished_checkpoints(folder), default=0) < before + after * self.EVERY:
                    assert child.poll() is None, "the run ended before it could be killed"
                    assert time.monotonic() < deadline, "no checkpoint after two minutes"
                    time.sleep(0.01)
            finally:
                child.kill()
            told = [int(step) for step in child.stdout.read().split()]
        assert child.returncode == -signal.SIGKILL
        return told[0], told[-1]

    def test_a_run_killed_twice_gives_the_curves_of_one_that_was_not(self, tmp_path):
        folder = tmp_path / "run"
        _, first_end = self.killed(folder, after=2)
        kept = finished_checkpoints(folder)[-1]
        second_start, second_end = self.killed(folder, after=1)
        assert kept < second_start <= kept + self.EVERY
        assert first_end - kept <= self.EVERY
        kept = finished_checkpoints(folder)[-1]
        assert second_end - kept <= self.EVERY

        steps = []
        resumed = resumable.run(folder, self.STEPS, self.EVERY, lambda done, _: steps.append(done))
        assert kept < steps[0] <= kept + self.EVERY
        whole = resumable.run(None, self.STEPS, self.EVERY)
        assert resumed.trained_steps == whole.trained_steps == self.STEPS
        assert_same_curves(resumed, whole)
        jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)

    @pytest.mark.parametrize("every", [1, 7])
    def test_checkpoints_do_not_change_the_curves(self, mlp, data, tmp_path, every):
        plan = ntp.Plan.sgd(0.1, batch_size=8, max_steps=20)
        with_them = ntp.train(mlp, data, plan, checkpoints=tmp_path, checkpoint_every=every)
        assert_same_curves(with_them, ntp.train(mlp, data, plan))

    def test_with_other_evaluations_is_refused(self, mlp, data, tmp_path, refused):
        plan = ntp.Plan.sgd(0.1, batch_size=8, max_steps=10)
        grid = np.array([0, 2, 5, 10])
        whole = ntp.train(
            mlp, data, plan, evaluations=grid, checkpoints=tmp_path, checkpoint_every=4
        )
        resumed = ntp.train(mlp, data, plan, evaluations=grid, checkpoints=tmp_path)
        assert_same_curves(resumed, whole)
        with refused("evaluations: other steps than before this run was killed; expected the sa"):
            ntp.train(mlp, data, plan, checkpoints=tmp_path)
        later = np.array([0, 2, 5, 9, 10])  # what is yet to come may change
        ntp.train(mlp, data, plan, evaluations=later, checkpoints=tmp_path)
        with refused(f"checkpoints: '{tmp_path}' holds another run (['evaluation_samples'] differ"):
            ntp.train(mlp, data, plan, evaluations=grid, evaluation_samples=9, checkpoints=tmp_path)

    def test_a_finished_run_is_not_run_again(self, mlp, data, plan, tmp_path):
        first = ntp.train(mlp, data, plan, checkpoints=tmp_path, checkpoint_every=plan.max_steps)
        seen = []
        again = ntp.train(
            mlp, data, plan, checkpoints=tmp_path, progress=lambda *step: seen.append(step)
        )
        assert seen == []
        assert_same_curves(again, first)
        jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
        assert again.seconds == first.seconds

    def test_a_run_that_stopped_goes_on_for_a_harder_target(self, mlp, data, tmp_path):
        plan = ntp.Plan.sgd(0.1, batch_size=8, max_steps=200)
        easy, hard = ntp.TargetLoss(relative=0.7), ntp.TargetLoss(relative=0.5)
        ntp.train(mlp, data, plan, easy, checkpoints=tmp_path, checkpoint_every=2)
        further = ntp.train(mlp, data, plan, hard, checkpoints=tmp_path, checkpoint_every=2)
        direct = ntp.train(mlp, data, plan, hard)
        assert further.steps == direct.steps
        assert_same_curves(further, direct)

    def test_a_cancelled_run_goes_on_from_where_it_was(self, mlp, data, plan, tmp_path):
        grid = np.array([0, 10, plan.max_steps])
        whole = ntp.train(mlp, data, plan, evaluations=grid)
        tracker = ntp.track(iter(()), max_steps=plan.max_steps, quiet=True)
        step = TrainingStep.__call__
        calls = []

        def cancelled(self, state, index):
            calls.append(index)
            if len(calls) == 17:
                tracker.cancel.ask()
            return step(self, state, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrainingStep, "__call__", cancelled)
            first = ntp.train(
                mlp, data, plan, evaluations=grid, checkpoints=tmp_path, tracker=tracker
            )
        assert (first.trained_steps, first.steps) == (17, None)
        assert tracker.indicator.step == 17
        again = ntp.track(iter(()), "val_loss<=0.001", max_steps=plan.max_steps, quiet=True)
        resumed = ntp.train(mlp, data, plan, evaluations=grid, checkpoints=tmp_path, tracker=again)
        assert_same_curves(resumed, whole)
        assert again.indicator.step == plan.max_steps
        assert [v.step for v in again.indicator._watching[0].values] == grid.tolist()

    def test_a_diverging_run_can_be_resumed(self, linear, data, tmp_path):
        plan = ntp.Plan.sgd(1e8, batch_size=8, max_steps=30, loss="squared_error")
        whole = ntp.train(linear, data, plan, checkpoints=tmp_path, checkpoint_every=20)
        resumed = ntp.train(linear, data, plan, checkpoints=tmp_path, checkpoint_every=20)
        assert not np.isfinite(whole.trajectory.train.loss).all()
        assert_same_curves(resumed, whole)
