"""Packages whose names are imported when they are used first."""

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def import_when_used(package: str, places: Mapping[str, Collection[str]]) -> Callable[[str], Any]:
    """Make the `__getattr__` of a package.

    places: the file in the package, without its ending, → the names that are imported from it.
    """
    modules = {name: f"{package}.{module}" for module, names in places.items() for name in names}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return get
