import gc

import pytest

from physiq_ray import labels, storage
from physiq_ray.lazy import without_garbage_collection


@pytest.mark.parametrize("package", [storage, labels])
def test_a_package_has_each_of_its_names_and_no_other(package):
    assert all(hasattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match=rf"module '{package.__name__}' has no attribute 'read_all'"):
        _ = package.read_all


def test_garbage_is_collected_again_after_a_failed_import():
    during = []

    def fail() -> None:
        with without_garbage_collection():
            during.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert (during, gc.isenabled()) == ([False], True)


def test_garbage_collection_stays_off_if_it_was_off():
    gc.disable()
    try:
        with without_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
