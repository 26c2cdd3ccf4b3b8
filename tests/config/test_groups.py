import pytest

from physiq_ray.config import BaseSettings, Group
from physiq_ray.config.load import KINDS


def test_a_setting_without_a_group_is_refused() -> None:
    class Wrong(BaseSettings):
        number: int = 3

    with pytest.raises(TypeError, match=r"define the setting with Group"):
        Wrong.names_by_group()


def test_each_setting_is_shown_once_in_the_order_of_the_groups() -> None:
    for kind in KINDS:
        groups = kind.names_by_group()
        assert list(groups) == [group for group in Group if group in groups]
        assert sorted(name for names in groups.values() for name in names) == sorted(kind.model_fields)
