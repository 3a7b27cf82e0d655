import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("linearize", "sde", "ntkpredict")
MODULES = [
    module.name
    for package in map(importlib.import_module, PACKAGES)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", [*PACKAGES, *MODULES])
def test_the_examples_in_the_docstrings_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
