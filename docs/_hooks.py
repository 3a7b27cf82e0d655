"""What the site is made of besides the pages in docs/.

Formulas become MathML, so that no script renders them; the experiments' READMEs and figures are
pages where they are; every public name is in the reference.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PACKAGES = ("linearize", "sde", "ntkpredict.progress", "ntkpredict")
"""A name that several have is on the page of the first."""

_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\w$])\$([^$\n]+?)\$(?![\w$])", re.DOTALL)
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the experiments and the reference."""
    for path in sorted((ROOT / "experiments").glob("*/*")):
        if path.suffix in (".md", ".png", ".svg") or path.name == "calibration.json":
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for package in PACKAGES:
        page = File.generated(config, f"reference/{package}.md", content=reference(package))
        files.append(page)
    return files


def reference(package: str) -> str:
    """A page with every public name of a package, or a link to where it is."""
    module = importlib.import_module(package)
    places = {name: place(module, name) for name in module.__all__}
    before = set[str]()
    for other in map(importlib.import_module, PACKAGES[: PACKAGES.index(package)]):
        before |= {place(other, name) for name in other.__all__}
    links = [f"[`{name}`][{at}]" for name, at in places.items() if at in before]
    also = "Also here: " * bool(links) + ", ".join(links)
    names = "\n\n".join(f"::: {at}" for at in places.values() if at not in before)
    return f"# {package}\n\n{module.__doc__}\n\n{also}\n\n{names}\n"


def place(module: Any, name: str) -> str:
    """Where a public name is defined."""
    found = getattr(module, name)
    if hasattr(found, "__qualname__"):
        return f"{found.__module__}.{found.__qualname__}"
    return f"{module.__name__}.{name}"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put formulas by, so that Markdown leaves them alone."""
    page.formulas = []

    def keep(match: re.Match[str]) -> str:
        display = "inline" if match[1] is None else "block"
        page.formulas.append(convert(match[1] or match[2], display=display))
        return f"FORMULA{len(page.formulas) - 1}END"

    if not page.file.src_uri.startswith("method"):
        return markdown
    parts = _CODE.split(markdown)
    return "".join(part if i % 2 else _FORMULA.sub(keep, part) for i, part in enumerate(parts))


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Put them back, as MathML."""
    return re.sub(r"FORMULA(\d+)END", lambda match: page.formulas[int(match[1])], html)
