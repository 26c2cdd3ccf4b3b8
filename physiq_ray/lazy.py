"""Imports that come late and take less time."""

import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collect no garbage during a block of imports.

    What a module creates stays. Python would look through it several times, which takes a tenth of the
    processor time of an import of torch.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
