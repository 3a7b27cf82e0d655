"""What the tests of the product share: tiny problems and ways to run the command."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from ntkpredict import cli
from sde import Curve

from . import forecasts, problems


@pytest.fixture(scope="session")
def digits(tfds_folder):
    """The embedded data set, through TFDS."""
    return ntp.load_data("digits")


@pytest.fixture
def refused():
    """Expect a ValueError whose message is one line and begins as given."""

    @contextlib.contextmanager
    def expect(beginning):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is checked here)
            yield caught
        message = str(caught.value)
        assert message.startswith(beginning), message
        assert "\n" not in message

    return expect


@pytest.fixture(scope="session")
def unchecked_messages():
    """What users read where an argument has the wrong type.

    In this process the run-time type checks come first; a child process runs without them. Takes
    Python expressions over `ntp`, `np` and `optax`, and returns how each of them fails.
    """

    def run(expressions):
        code = (
            "import sys, numpy as np, optax, ntkpredict as ntp\n"
            "for expression in sys.argv[1:]:\n"
            "    try:\n"
            "        eval(expression)\n"
            "    except Exception as error:\n"
            "        print(f'{type(error).__name__}: {error}')\n"
            "    else:\n"
            "        print('no error')\n"
        )
        command = [sys.executable, "-c", code, *expressions]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
        return child.stdout.splitlines()

    return run


@pytest.fixture(scope="session")
def data():
    """48 training and 24 validation samples of three classes."""
    return problems.data()


@pytest.fixture(scope="session")
def training_data(data):
    """The same, without validation."""
    return dataclasses.replace(data, validation=None)


@pytest.fixture(scope="session")
def linear():
    """A network that is linear in its parameters, and nothing but a head."""
    return problems.linear()


@pytest.fixture(scope="session")
def mlp():
    """One hidden layer and a head, all of it trained."""
    return problems.mlp()


@pytest.fixture(scope="session")
def frozen_mlp():
    """The same network of which only the head trains."""
    return problems.mlp(trainable="head/*")


@pytest.fixture(scope="session")
def loud():
    """The same, its features large: many learning rates are too large for it."""
    return problems.loud()


@pytest.fixture
def forecast():
    """By hand, of two minibatch orders."""
    return forecasts.forecast()


@pytest.fixture
def plan():
    """Plain and quick."""
    return ntp.Plan.sgd(0.05, batch_size=8, max_steps=60)


@pytest.fixture(scope="session")
def naive_curve():
    """Train with the plainest loop there is; losses on all samples after the given steps.

    `orders` holds the samples of each minibatch; `loss` maps (outputs, labels) to one number a
    sample.
    """

    def curve(apply, params, split, optimizer, orders, steps, loss):
        inputs, labels = split
        state = optimizer.init(params)

        def mean_loss(params, inputs, labels):
            return loss(apply(params, inputs), labels).mean()

        @jax.jit
        def train(params, state, inputs, labels):
            gradient = jax.grad(mean_loss)(params, inputs, labels)
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        losses = {0: float(mean_loss(params, inputs, labels))}
        for step, index in enumerate(orders[: max(steps)], start=1):
            params, state = train(params, state, inputs[index], labels[index])
            if step in steps:
                losses[step] = float(mean_loss(params, inputs, labels))
        return np.array([losses[step] for step in steps])

    return curve


@pytest.fixture(scope="session")
def trajectory():
    """A trajectory by hand: rows of losses, and of accuracies, on a grid."""

    def curve(loss, accuracy):
        return Curve(*map(np.atleast_2d, (loss, accuracy)))

    def build(steps, loss, accuracy=None, validation=None):
        loss = np.atleast_2d(np.asarray(loss, float))
        train = curve(loss, np.zeros_like(loss) if accuracy is None else accuracy)
        held_out = None if validation is None else curve(*validation)
        return ntp.Trajectory(np.asarray(steps), train, held_out)

    return build


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def result(self):
        """What it printed, where that is one JSON document and nothing else."""
        return json.loads(self.out)


def assert_one_line(outcome, beginning, code=1):
    """What the command says where it cannot go on."""
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.startswith(f"ntkpredict: {beginning}"), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err


@pytest.fixture(scope="session")
def console_script(tfds_folder, tmp_path_factory):
    """Run the installed command as a user does, in a process and a folder of its own.

    Programs that are compiled twice, by one run or by several, are kept.
    """
    programs = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def run(*arguments, **variables):
        folder = tmp_path_factory.mktemp("command")
        script = Path(sys.executable).with_name("ntkpredict")
        child = subprocess.run(
            [script, *map(str, arguments)],
            **{"capture_output": True, "text": True, "cwd": folder},
            env={**os.environ, **programs, **variables},
        )
        return Outcome(child.returncode, child.stdout, child.stderr)

    return run


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; elsewhere any pair of browser and driver of these names."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("no chromium and chromedriver here; apt-get install chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for switch in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(paths[1])
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def embedded_validation(console_script, tmp_path_factory):
    """`ntkpredict validate --json` on the embedded default, before TFDS has prepared it."""
    folder = tmp_path_factory.mktemp("fresh")
    return console_script(
        *("validate", "--json", "--lr", 0.003, "--until", "loss<=0.2x", "--max-steps", 200),
        *("--samples", 64, "--batch-size", 16, "--save", folder / "validation.json"),
        TFDS_DATA_DIR=str(folder),
    )


@pytest.fixture
def command(monkeypatch, capfd, tmp_path):
    """Run the command in this process, in a folder of its own."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ntkpredict", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def archive(tmp_path):
    """Write the points, with changes, as an archive; the argument for --data."""

    def write(**changes):
        data = problems.data()
        arrays = {
            "x_train": data.train[0],
            "y_train": data.train[1],
            "x_validation": data.validation[0],
            "y_validation": data.validation[1],
        }
        np.savez(tmp_path / "points.npz", **{**arrays, **changes})
        return f"npz:{tmp_path / 'points.npz'}"

    return write


@pytest.fixture
def task(archive):
    """Arguments for a tiny task."""
    return (
        *(
            "--network",
            f"{problems.__name__}:linear",
            "--data",
            archive(),
            "--lr",
            0.05,
            "--batch-size",
            8,
        ),
        *("--max-steps", 40, "--until", "loss<=0.5x"),
    )


@pytest.fixture
def suite(tmp_path):
    """The folder of a suite: two runs, one of which diverges, and one forecaster."""
    curves = {"loss": [[4.0, 2.0, 1.0]], "accuracy": [[0.0, 0.1, 0.2]]}
    run = {
        "trained_steps": 40,
        "seconds": 60.0,
        "trajectory": {"steps": [0, 20, 40], "train": curves, "validation": curves},
        "case": {"optimizer": "sgd", "batch_size": 8, "max_steps": 40},
        "task": {"split": "development", "distance": "near", "network": "net", "samples": 500},
    }
    wild = {"loss": [[4.0, 2.0, None]], "accuracy": [[0.0, 0.1, 0.1]]}
    diverged = run | {"trajectory": {"steps": [0, 20, 40], "train": wild, "validation": wild}}
    forecast = {
        "targets": {
            "loss<=0.7x": {"steps": 12.0, "interval": [8.0, 16.0]},
            "loss<=0.5x": {"steps": None, "interval": None},
        },
        "trusted": False,
        "seconds": 20.0,
        "forward_passes": 480.0,
        "trajectory": None,
    }
    files = {
        "runs/steady.json": run,
        "runs/wild.json": diverged,
        "forecasts/ours/steady.json": forecast,
        "forecasts/ours/wild.json": forecast,
    }
    for name, content in files.items():
        path = tmp_path / "suite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path / "suite"
