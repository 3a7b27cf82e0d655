"""The page on loopback: what it tells, who may cancel, and that training never waits for it."""

import http.client
import importlib.util
import json
import socket
import time
import urllib.parse

import pytest

import ntkpredict as ntp

UNTIL = ntp.EarlyStopping(5, every=20)


def ask(url, method, path, **headers):
    """Status, headers and what is told within a moment."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    line = response.readline().decode()
    connection.close()
    return response.status, line


def token(url):
    return {"Authorization": f"Bearer {url.partition('#')[2]}"}


@pytest.fixture
def tracked(clock, run):
    """A run that is served, at some step."""
    trackers = []

    def start(**options):
        options = {"quiet": True, "serve": True, "clock": clock, **options}
        trackers.append(ntp.track(2000, UNTIL, **options))
        return trackers[-1]

    yield start
    for tracker in trackers:
        tracker.close()


def advance(progress, clock, run, steps):
    """Train on, with a value every 20 steps."""
    for _ in range(steps):
        clock.wait(run.step_seconds)
        progress.advance()
        step = progress.indicator.step
        if step % run.every == 0:
            progress.report(validation_loss=run.values[step // run.every - 1])


class TestServer:
    def test_nothing_listens_unless_asked(self, tracked, monkeypatch):
        monkeypatch.setattr(socket, "create_server", lambda *_: pytest.fail("a server"))
        assert tracked(serve=False).url is None

    def test_listens_on_loopback_at_the_given_port(self, tracked, capsys):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        progress = tracked(serve=port, quiet=False)
        assert progress.url.startswith(f"http://127.0.0.1:{port}/#")
        assert progress.url in capsys.readouterr().err
        status, line = ask(progress.url, "GET", "/")
        assert (status, line) == (200, "<!doctype html>\n")
        assert ask(progress.url, "GET", "/", Host="evil.example")[0] == 400
        progress.close()
        with pytest.raises(ConnectionRefusedError):
            ask(progress.url, "GET", "/")

    def test_events_tell_what_the_panel_tells(self, tracked, clock, run):
        progress = tracked(batch_size=32, price_per_hour=3.0, title='a "run"')
        advance(progress, clock, run, 100)
        status, line = ask(progress.url, "GET", "/events")
        assert status == 200
        event = json.loads(line.removeprefix("data: "))
        assert (event["title"], event["status"], event["ended"]) == ('a "run"', "Training", False)
        rows = dict(event["state"]["rows"])
        assert rows["Steps"].startswith("100 of about ")
        assert rows["Speed"] == "320 U/s"
        assert " in money" in rows["Cost"]
        assert " to " in rows["Remaining"]
        assert 0 < event["state"]["done"] < 1
        curve = event["state"]["curve"]
        assert curve["metric"] == "validation_loss"
        assert curve["values"].count("M") == 4  # the fifth came after it was shown
        assert curve["words"].startswith("validation_loss is ")

    def test_cancel_needs_the_token(self, tracked):
        progress = tracked()
        wrong = {"Authorization": "Bearer é"}
        assert ask(progress.url, "POST", "/cancel")[0] == 403
        assert ask(progress.url, "POST", "/cancel", **wrong)[0] == 403
        assert ask(progress.url, "GET", "/cancel", **token(progress.url))[0] == 404
        assert not progress.stopped
        assert ask(progress.url, "POST", "/cancel", **token(progress.url))[0] == 202
        assert progress.stopped

    def test_a_loop_that_never_asks_ends_too_after_its_checkpoint(self, tracked):
        written = []
        progress = tracked(checkpoint=lambda: written.append(progress.indicator.step))
        for step in progress:
            if step == 7:
                progress.cancel.ask()
        assert (step, written) == (7, [7])
        assert progress.cancel.status == "Cancelled, a checkpoint is written"

    def test_a_checkpoint_that_fails_lets_training_go_on(self, tracked):
        progress = tracked(checkpoint=lambda: 1 / 0)
        progress.cancel.ask()
        with pytest.warns(RuntimeWarning, match="checkpoint failed, training goes on: ZeroDiv"):
            assert not progress.stopped
        assert not progress.stopped
        _, line = ask(progress.url, "GET", "/events")
        assert "Not cancelled, as the checkpoint failed: ZeroDivisionError" in line

    def test_a_port_that_is_taken_is_a_warning(self, tracked):
        taken = urllib.parse.urlsplit(tracked().url).port
        with pytest.warns(RuntimeWarning, match=f"no page of .* training goes on: port {taken}"):
            assert tracked(serve=taken).url is None

    def test_a_server_that_dies_is_a_warning_and_the_rest_goes_on(self, tracked, clock, run):
        progress = tracked()
        (page,) = [view for _, view in progress._views._due]
        page._server.should_exit = True
        page._thread.join()
        with pytest.warns(RuntimeWarning, match="the Page of the progress failed") as caught:
            advance(progress, clock, run, 100)
        assert len(caught) == 1
        assert progress.estimate().step == 100

    @pytest.mark.parametrize("port", [-1, 70_000])
    def test_bad_port(self, refused, port):
        with refused(f"serve: got {port}; expected True, False or a port"):
            ntp.track(9, serve=port)

    def test_without_the_extra(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(ImportError, match=r"pip install 'ntkpredict\[serve\]'"):
            ntp.track(9, serve=True)


class TestBrowser:
    def text(self, browser, name):
        return browser.find_element("id", name).get_attribute("textContent")

    def until(self, condition):
        """Wait at most ten seconds."""
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "not within ten seconds"
            time.sleep(0.05)

    def test_open_watch_cancel(self, browser, tracked, clock, run, tmp_path):
        path = tmp_path / "checkpoint"
        progress = tracked(title="A run", checkpoint=lambda: path.write_text("weights"))
        browser.get(progress.url)
        advance(progress, clock, run, 100)
        self.until(lambda: "100 of about" in self.text(browser, "rows"))
        assert " to " in self.text(browser, "remaining")
        curve = browser.find_element("id", "values").get_attribute("d")
        advance(progress, clock, run, 100)
        self.until(lambda: "200 of about" in self.text(browser, "rows"))
        assert browser.find_element("id", "values").get_attribute("d") != curve
        assert browser.title.endswith("A run")
        assert " remaining" in self.text(browser, "news")
        button = browser.find_element("id", "cancel")
        assert button.accessible_name == "Cancel training"
        button.click()
        assert browser.switch_to.active_element.text == "Go on training"  # by Enter nothing is lost
        browser.switch_to.active_element.send_keys("\ue004\ue007")  # Tab, Enter
        self.until(lambda: "Cancelling" in self.text(browser, "status"))
        assert not path.exists()
        assert progress.stopped
        assert path.read_text() == "weights"
        progress.close()
        self.until(lambda: self.text(browser, "status") == "Cancelled, a checkpoint is written")
        assert not button.is_enabled()
        assert browser.get_log("browser") == []

    def test_without_the_token_there_is_nothing_to_press(self, browser, tracked):
        progress = tracked()
        browser.get(progress.url.partition("#")[0])
        self.until(lambda: self.text(browser, "status") == "Training")
        assert not browser.find_element("id", "cancel").is_enabled()
        assert browser.find_element("id", "hint").is_displayed()
        progress.close()
        self.until(lambda: self.text(browser, "status") == "Training has ended")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_fits_a_phone_in_enough_contrast(self, browser, tracked, clock, run, scheme):
        progress = tracked(title="A_run_with_a_name_that_nobody_thought_would_be_so_long_" * 2)
        advance(progress, clock, run, 100)
        size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(progress.url)
        self.until(lambda: "100 of about" in self.text(browser, "rows"))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        for name in ("title", "status", "remaining", "rows", "metric", "cancel"):
            element = browser.find_element("id", name)
            ink = element.value_of_css_property("color")
            paper = browser.find_element("tag name", "body").value_of_css_property(
                "background-color"
            )
            assert contrast(ink, paper) >= 4.5, name


def contrast(one, other):
    """Of WCAG 2.2."""

    def luminance(color):
        parts = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
