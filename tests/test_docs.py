"""The site: it builds, its examples run, every public name is documented."""

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ntkpredict", "ntkpredict.progress", "linearize", "sde")
PAGES = {
    path.relative_to(ROOT / "docs").as_posix(): code
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if (code := re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
}
FRAMEWORKS = [
    "ignore:`isinstance.treespec, LeafSpec:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:The number of training batches",
]


@pytest.mark.filterwarnings(*FRAMEWORKS)
@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for block in PAGES[page]:
        exec(compile(block, page, "exec"), names)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_needs_no_network(site):
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"?(?:https?:)?//", html)
        assert loaded == [], page
        assert "FORMULA" not in html, page
        assert html.count("<math") == html.count("</math>")
    assert (site / "method.html").read_text(encoding="utf-8").count("<math") > 50
    assert (site / "experiments" / "suite" / "figure.png").exists()
    assert 'id="ntkpredict.predict.predict"' in (site / "reference" / "ntkpredict.html").read_text()


def members(package):
    """Every public name, and the public methods and properties of classes."""
    module = importlib.import_module(package)
    for name in module.__all__:
        found = getattr(module, name)
        if not typing.get_origin(found):  # an alias has no docstring
            yield name, found
        if inspect.isclass(found):
            for attribute, value in vars(found).items():
                if not attribute.startswith("_") and (
                    inspect.isroutine(value) or isinstance(value, (property, staticmethod))
                ):
                    yield f"{name}.{attribute}", getattr(found, attribute)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package):
    bare = [name for name, found in members(package) if not inspect.getdoc(found)]
    assert bare == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_field_of_a_public_record_is_documented(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        found = getattr(module, name)
        if not (inspect.isclass(found) and dataclasses.is_dataclass(found)):
            continue
        told = "".join(inspect.getdoc(base) or "" for base in found.__mro__[:-1])
        for field in dataclasses.fields(found):
            if not field.name.startswith("_"):
                assert f"{field.name}:" in told, f"{name}.{field.name}"
