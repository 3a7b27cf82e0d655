import re
import runpy
import tomllib
from pathlib import Path

import pytest

import ntkpredict as ntp
from tests.ntkpredict import problems

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.usefixtures("optimized")
def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = tmp_path / "example.py"
    example.write_text(EXAMPLES[0], encoding="utf-8")
    names = runpy.run_path(str(example))
    forecast = names["forecast"]
    low, high = forecast.steps_interval
    assert low <= forecast.steps <= high
    assert names["ntp"].Forecast.load("forecast.json").steps == forecast.steps
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_the_example_of_a_training_loop_runs():
    (code,) = re.findall(r"```py\n(.*?)```", README, flags=re.DOTALL)
    losses = iter([3.0, 2.0, 1.0, *[1.5] * 9])
    names = {"ntp": ntp, "train_step": lambda: None, "validate": lambda: next(losses)}
    code = code.replace("(forecast, ", '(900, "val_loss_patience>=5@20", quiet=True, ')
    exec(code, names)
    assert names["step"] == 8 * 20


def test_the_example_of_comparing_runs_on_a_tiny_problem(capsys):
    _, code = EXAMPLES
    names = {"ntp": ntp, "network": problems.linear(), "data": problems.data()}
    exec(code.replace("relative=0.1", "relative=0.6").replace("[32, 64]", "[8]"), names)
    assert len(names["ranking"].candidates) == 4
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_the_continuous_integration_runs_the_test_command_of_the_readme():
    commands = re.findall(r"^    (python3 -m venv .*)$", README, flags=re.MULTILINE)
    assert len(commands) == 2
    assert "pytest" in commands[1]
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_command_of_the_readme_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"ntkpredict": "ntkpredict.cli:main"}
