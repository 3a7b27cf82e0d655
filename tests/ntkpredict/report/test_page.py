import dataclasses
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects
import pytest

import ntkpredict as ntp
from ntkpredict.record import to_interval, to_trajectory
from ntkpredict.train import Run
from ntkpredict.validate import Comparison, Validation, compare_targets

from .. import forecasts

SAID = re.compile(r"95\s%|90 % of them|S·\(1 \+ B_c/B\)")
"""Numbers that belong to the words around them."""

UNITS = {"": 1, "s": 1, "ms": 1e-3, "min": 60, "h": 3600, "%": 0.01}


def hopeless():
    """Diverges; no validation data and no stability."""
    forecast = forecasts.forecast()
    rows = np.array([[3.0, np.inf, np.nan], [2.9, -np.inf, 1e30]])
    curve = dataclasses.replace(forecast.trajectory.train, loss=rows)
    return dataclasses.replace(
        forecast,
        steps=None,
        steps_interval=None,
        seconds=None,
        seconds_interval=None,
        stopping_times=np.full(4, np.inf),
        reason="diverges: the loss ends 3 times above its start",
        trajectory=ntp.Trajectory(forecast.trajectory.steps, curve, None),
        stability=None,
        until="loss<=0.1x",
        network="</script><script>alert('x')</script>",
    )


def validation():
    """Of a forecast that knows first steps."""
    forecast = forecasts.forecast()
    known = int(forecast.trajectory.steps[1])
    forecast = dataclasses.replace(
        forecast, trajectory=dataclasses.replace(forecast.trajectory, known=known)
    )
    curves = forecast.trajectory.first(2).quantile(0.25)
    run = Run(9.5, 10, 2.25, 0.75, curves, np.array([3.0, 2.0]), {})
    rows = compare_targets(forecast, run, ntp.parse(forecast.until))
    return Validation(forecast, run, rows, speedup=4.5)


def load(kind, content, folder):
    (folder / "result.json").write_text(json.dumps(content))
    return kind.load(folder / "result.json")


def read_validation(content, folder):
    """What `Validation.to_dict` made of one, undone."""
    run = content["run"]
    run |= {"trajectory": to_trajectory(run["trajectory"]), "params": {}}
    run |= {"batch_loss": np.array(run["batch_loss"])}
    rows = [
        Comparison(row["until"], row["predicted"], to_interval(row["interval"]), row["real"])
        for row in content["comparisons"]
    ]
    forecast = load(ntp.Forecast, content["forecast"], folder)
    return Validation(forecast, Run(**run), tuple(rows), content["speedup"])


RESULTS = {
    "forecast": forecasts.forecast,
    "hopeless": hopeless,
    "validation": validation,
    "ranking": forecasts.ranking,
    "diverging ranking": lambda: forecasts.ranking([(1.0, size, None, 3.0) for size in (8, 16)]),
}


class Page(HTMLParser):
    """What can be read, what is inside scripts, and what leads elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.inside, self.words, self.numbers, self.scripts, self.links = [], [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [v for k, v in attributes if k.split(":")[-1] in ("src", "href", "action")]
        if tag not in ("meta", "path", "use", "image", "br", "rect"):
            self.inside.append(tag)
        if tag == "data":
            self.numbers.append([float(found["value"]), ""])
        if tag == "script":
            self.scripts[found.get("id", f"script {len(self.scripts)}")] = ""

    def handle_startendtag(self, tag, attributes):
        self.links += [v for k, v in attributes if k.split(":")[-1] in ("src", "href")]

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, text):
        if "script" in self.inside:
            self.scripts[list(self.scripts)[-1]] += text
        elif "data" in self.inside:
            self.numbers[-1][1] += text
        elif not {"style", "svg", "title"} & set(self.inside):
            self.words.append(text)


@pytest.fixture(scope="module", params=RESULTS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def text(name, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    ntp.report(RESULTS[name](), path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture(scope="module")
def content(page):
    return json.loads(page.scripts["content"])


def leaves(content, kind):
    """All values of a kind in some JSON, and the names of what it holds."""
    if isinstance(content, dict):
        names = content if kind is str else ()
        return [*names, *(leaf for value in content.values() for leaf in leaves(value, kind))]
    if isinstance(content, list):
        return [leaf for value in content for leaf in leaves(value, kind)]
    return [content] if isinstance(content, kind) and not isinstance(content, bool) else []


def as_read(text):
    """The value of a number as a person reads it, and half of its last digit."""
    text = text.replace("\u00a0", " ").replace("−", "-")
    parts = re.findall(r"([+-]?[0-9][0-9.,]*(?:e[+-]?[0-9]+)?) ?([a-z%]*)", text)
    assert " ".join(f"{digits} {unit}".strip() for digits, unit in parts) == text
    value = sum(float(digits.replace(",", "")) * UNITS[unit] for digits, unit in parts)
    digits, unit = parts[-1]
    mantissa, _, exponent = digits.partition("e")
    places = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return value, 0.5 * 10.0**-places * UNITS[unit]


class TestNumbers:
    def test_each_is_in_the_json(self, page, content):
        known = set(leaves(content, (int, float)))
        assert page.numbers
        for value, text in page.numbers:
            assert value in known, text
            read, half = as_read(text)
            assert read == pytest.approx(value, rel=1e-9, abs=1.001 * half), text

    def test_there_are_no_others(self, page, content):
        words = "".join(page.words)
        for known in sorted(set(leaves(content, str)), key=len, reverse=True):
            words = words.replace(known, " ") if re.search("[0-9]", known) else words
        assert not re.findall(r".{0,20}[0-9].{0,20}", SAID.sub(" ", words))

    def test_all_of_the_page_follows_from_its_json(self, text, name, content, tmp_path):
        if name == "validation":
            result = read_validation(content["result"], tmp_path)
        else:
            kind = ntp.Ranking if name.endswith("ranking") else ntp.Forecast
            result = load(kind, content["result"], tmp_path)
        ntp.report(result, tmp_path / "again.html")
        again = (tmp_path / "again.html").read_text(encoding="utf-8")
        assert again == text


class TestPage:
    def test_nothing_leads_elsewhere(self, page, text):
        assert all(link.startswith("#") for link in page.links), page.links
        before = text[: text.index('<script type="text/plain"')]
        assert not re.findall(r"url\((?!#)|@import", before)

    def test_names_are_text(self, page):
        assert len(page.scripts) == 4
        json.loads(page.scripts["figures"])

    def test_the_answer_comes_first(self, page, name):
        answer = " ".join("".join(page.words).split())
        assert {
            "forecast": "after about steps",
            "hopeless": "No forecast for loss<=0.1x: diverges",
            "validation": "outside the interval",
            "ranking": "Least seconds to loss<=0.1x within 20min: sgd, lr 0.1",
            "diverging ranking": "No plan gets to loss<=0.1x within 20min: diverges",
        }[name] in answer[:400]

    def test_each_figure_is_a_picture_and_what_plotly_draws(self, page, text):
        drawn = json.loads(page.scripts["figures"])
        assert re.findall(r'<figure id="([^"]*)"', text) == list(drawn)
        assert text.count("<svg") == len(drawn)
        for figure in drawn.values():
            plotly.graph_objects.Figure(figure)


class TestWithoutTheExtra:
    def test_what_is_missing_is_named(self, monkeypatch, forecast, tmp_path):
        monkeypatch.setitem(sys.modules, "jinja2", None)
        for action in (ntp.report, lambda f, path: ntp.figures(f)["stopping"].save(path)):
            with pytest.raises(ImportError, match=r"jinja2 missing; pip install 'ntkpredict"):
                action(forecast, tmp_path / "page.svg")
        assert not list(tmp_path.iterdir())
