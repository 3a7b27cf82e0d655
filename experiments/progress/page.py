"""The page in the middle of a run, as page.png.

    python experiments/progress/page.py

Needs Debian's packages chromium and chromium-driver, and Selenium of the extra ``test``.
"""

import time
from pathlib import Path

from recorded import halfway, load, shown
from selenium import webdriver

HERE = Path(__file__).parent


def main(folder: Path = HERE) -> None:
    """Serve, look, write the picture."""
    replay = shown(load())
    progress = halfway(replay, serve=True, title=replay.key)
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for switch in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "window-size=760,850",
        "hide-scrollbars",
    ):
        options.add_argument(f"--{switch}")
    browser = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        browser.get(progress.url)
        time.sleep(2)
        browser.save_screenshot(str(folder / "page.png"))
    finally:
        browser.quit()
        progress.close()


if __name__ == "__main__":
    main()
