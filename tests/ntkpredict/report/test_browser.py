"""The page of a forecast as a browser shows it, with its script and without."""

import json
import re
import time

import pytest

import ntkpredict as ntp

from .test_page import as_read, leaves


@pytest.fixture(scope="module")
def forecast(linear, data):
    plan = ntp.Plan.sgd(0.05, batch_size=8, max_steps=200)
    return ntp.predict(linear, data, plan, ntp.TargetLoss(relative=0.5), seeds=2)


@pytest.fixture(scope="module", params=["with its script", "without JavaScript"])
def page(request, browser, forecast, tmp_path_factory):
    """The browser, at the page, once all is drawn."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    ntp.report(forecast, path)
    scripted = request.param == "with its script"
    disabled = {"value": not scripted}
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", disabled)
    browser.get(path.as_uri())
    end = time.monotonic() + 20
    shown = ".live .main-svg" if scripted else ".static svg"
    while not all(
        figure.find_elements("css selector", shown)
        for figure in browser.find_elements("tag name", "figure")
    ):
        assert time.monotonic() < end, "not drawn within 20 seconds"
        time.sleep(0.05)
    yield browser
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_answer_is_seen_first(page, forecast):
    answer = page.find_element("tag name", "h1")
    assert answer.is_displayed()
    assert answer.location["y"] < 300
    said = " ".join(answer.text.split())
    low, high = forecast.steps_interval
    assert said.startswith(
        f"loss<=0.5x after about {forecast.steps:,.0f} steps (95 %: {low:,.0f} to {high:,.0f}), "
    )


def test_the_numbers_seen_are_those_of_the_json(page, forecast):
    content = json.loads(page.find_element("id", "content").get_attribute("textContent"))
    assert content["result"] == forecast.to_dict()
    known = set(leaves(content, (int, float)))
    numbers = page.find_elements("tag name", "data")
    assert len(numbers) > 30
    for number in numbers:
        value = float(number.get_attribute("value"))
        assert value in known
        assert number.is_displayed()
        read, half = as_read(number.text)
        assert read == pytest.approx(value, rel=1e-9, abs=1.001 * half)


def test_each_figure_is_seen(page, forecast):
    figures = page.find_elements("tag name", "figure")
    assert [figure.get_attribute("id") for figure in figures] == list(ntp.figures(forecast))
    for figure in figures:
        pictures = figure.find_elements("css selector", ".static, .live")
        (seen,) = [picture for picture in pictures if picture.is_displayed()]
        assert seen.size["width"] > 200
        assert seen.size["height"] > 100
        assert re.search("[a-z]", seen.accessible_name)


def test_there_is_nothing_to_complain_about(page):
    assert page.get_log("browser") == []
