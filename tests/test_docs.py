"""The README cannot drift from the program."""

import re
from pathlib import Path

import pytest

from physiq_ray.cli import build_parser
from physiq_ray.config import (
    CleanseSettings,
    LocalServingSettings,
    Settings,
    SourceSettings,
    SplitSettings,
    SyncSettings,
)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_opens_with_the_two_commands():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert blocks[0] == (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]' && .venv/bin/physiq-ray demo\n"
    )
    assert blocks[1] == "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest\n"


@pytest.mark.parametrize(
    ("number", "kind", "told_before"),
    [
        (0, Settings, None),
        (1, LocalServingSettings, None),
        (2, CleanseSettings, SourceSettings),
        (3, SyncSettings, SplitSettings),
    ],
)
def test_every_setting_stands_in_the_readme_with_its_default(number, kind, told_before):
    tables = README.partition("## Settings")[2].split("| setting | default | |")[1:]
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", tables[number], re.MULTILINE))
    assert set(rows) == set(kind.model_fields) - set(told_before.model_fields if told_before else ())
    for name, shown in rows.items():
        default = kind.model_fields[name].get_default()
        text = " ".join(default) if isinstance(default, tuple) else default
        assert shown == ("" if default in ((), {}, None) else f"`{text}`"), name


@pytest.mark.parametrize(
    "line", sorted(set(re.findall(r"^physiq-ray (.*(?:\\\n.*)*)", README, re.MULTILINE)))
)
def test_every_command_line_in_the_readme_parses(line):
    words = line.replace("\\\n", " ").replace("'", "").split()
    assert build_parser().parse_args(words).command == words[0]


def test_every_command_has_its_place_in_the_readme():
    (subparsers,) = (action for action in build_parser()._actions if action.dest == "command")
    for command in subparsers.choices:
        assert f"physiq-ray {command}" in README


def test_pictures_of_the_readme_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
