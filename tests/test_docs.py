"""The documents agree with the program: their commands, links, settings and maps are checked."""

import functools
import re
import runpy
import shlex
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from help_texts import help_of

from physiq_ray.cli import build_parser
from physiq_ray.cli.parser import COMMANDS
from physiq_ray.config import (
    BaseSettings,
    CleanseSettings,
    LocalServingSettings,
    Settings,
    SourceSettings,
    SplitSettings,
    SyncSettings,
    load_settings,
)

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")))
}
KINDS: dict[str, type[BaseSettings]] = {
    "cleanse": CleanseSettings,
    "serve": LocalServingSettings,
    "sync": SyncSettings,
}  # all other commands: Settings
FOREIGN_FLAGS = {"--working-dir"}  # of `ray job submit`
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"


def find_commands() -> set[str]:
    """Give the names of all commands."""
    return {command.name for command in COMMANDS}


@functools.cache
def find_flags() -> frozenset[str]:
    """Give the flags that the help of any command names."""
    return frozenset(flag for command in COMMANDS for flag in re.findall(r"--[a-z-]+", help_of(command.name)))


def find_command_lines(text: str) -> Iterator[str]:
    """Give the words after `physiq-ray` in code blocks, at a line's start or in a job, and in code spans."""
    for block in re.findall(r"^```(?:sh|text)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        joined = re.sub(r"\\\n\s*", " ", block)
        yield from re.findall(r"(?:^\s*|-- |&& \S*/)physiq-ray ([a-z].*)$", joined, re.MULTILINE)
    yield from re.findall(r"`physiq-ray ([a-z][^`\n]*)`", without_blocks(text))


def without_blocks(text: str) -> str:
    """Remove code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def find_anchors(text: str) -> set[str]:
    """List the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


FLAGS = sorted({flag for text in PAGES.values() for flag in re.findall(r"`(--[a-z][^`\n]*)`", text)})
COMMAND_LINES = sorted({line for text in PAGES.values() for line in find_command_lines(text)})
LINKS = [
    (name, link)
    for name, text in PAGES.items()
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "code", without_blocks(text)))
    if not link.startswith(("http://", "https://"))
]


def test_the_readme_opens_with_the_two_commands() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert blocks[0] == (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]' && .venv/bin/physiq-ray demo\n"
    )
    assert blocks[1] == f"{TEST_COMMAND}\n"


def test_the_first_line_with_the_test_extra_is_the_test_command_that_ci_runs() -> None:
    assert next(line for line in README.splitlines() if ".[test]" in line) == TEST_COMMAND
    assert 'grep -m1 -F ".[test]" README.md' in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_the_readme_has_at_most_160_lines() -> None:
    assert len(README.splitlines()) <= 160


def test_the_readme_has_a_row_for_each_command() -> None:
    rows = re.findall(r"^\| `physiq-ray ([a-z]+)` \| .+ \| .+ \|$", README, re.MULTILINE)
    assert set(rows) == find_commands()
    assert len(rows) == len(find_commands())


def test_the_readme_names_every_extra_and_the_python_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = re.findall(r"^\| `([a-z]+)` \| .+ \|$", README, re.MULTILINE)
    assert set(rows) == set(project["optional-dependencies"])
    assert f"Python {project['requires-python'].removeprefix('>=')} or later" in README


def test_the_documents_show_every_command_and_a_job() -> None:
    assert {line.split()[0] for line in COMMAND_LINES} == find_commands()
    assert "train --run-name spring --num-workers 2 --sources s3://YOUR-PHOTOS" in COMMAND_LINES


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_line_parses_and_its_settings_are_accepted(line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[: words.index(">")] if ">" in words else words
    if len(words) == 1:  # the name of a command
        assert words[0] in find_commands()
    else:
        args = build_parser().parse_args(words)
        assert args.command == words[0]
        kind: type[BaseSettings] = KINDS.get(words[0], Settings)
        # It raises nothing: the settings are accepted.
        load_settings(
            {name: value for name, value in vars(args).items() if name in kind.model_fields},
            environment={},
            kind=kind,
        )


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_is_one_of_a_command_and_takes_the_value_shown(flag: str) -> None:
    name, *values = shlex.split(flag)
    assert name in find_flags() | FOREIGN_FLAGS
    setting = name.removeprefix("--").replace("-", "_")
    if not values or values[0].isupper():  # N, FILE
        return
    kinds: list[type[BaseSettings]] = [Settings, *KINDS.values()]
    for kind in kinds:
        if setting in kind.model_fields:
            annotation: object = kind.model_fields[setting].annotation
            is_list = typing.get_origin(annotation) in (tuple, dict)
            value = tuple(values) if is_list else " ".join(values)
            load_settings({setting: value}, environment={}, kind=kind)  # raises nothing


def test_the_command_of_the_kubernetes_job_parses() -> None:
    job = yaml.safe_load((DOCS / "kubernetes/rayjob.yaml").read_text(encoding="utf-8"))
    program, *words = job["spec"]["entrypoint"].split()
    assert program == "physiq-ray"
    assert build_parser().parse_args(words).command == "train"


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda value: str(value))
def test_every_link_and_picture_has_a_target(page: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.exists()
    if anchor:
        assert anchor in find_anchors(target.read_text(encoding="utf-8"))


def test_the_readme_links_to_every_page() -> None:
    linked = {link.partition("#")[0] for page, link in LINKS if page == "README.md"}
    assert set(PAGES) - {"README.md"} <= linked


def test_the_page_of_settings_is_up_to_date() -> None:
    build_page = runpy.run_path(str(DOCS / "settings.py"))["build_page"]
    assert PAGES["docs/settings.md"] == build_page(), "run: python docs/settings.py"


@pytest.mark.parametrize(
    ("title", "kind", "shown_before"),
    [
        ("Training and data", Settings, None),
        ("Serving", LocalServingSettings, None),
        ("Cleanse", CleanseSettings, SourceSettings),
        ("Sync", SyncSettings, SplitSettings),
    ],
)
def test_every_setting_is_on_its_page_with_its_default(
    title: str, kind: type[BaseSettings], shown_before: type[BaseSettings] | None
) -> None:
    part = re.split(r"^## ", PAGES["docs/settings.md"].partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `([a-z_]+)` \| (.*?) \| .+ \| .+ \| `PHYSIQ_([A-Z_]+)` \|$", part, re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert len(names) == len(set(names))
    assert set(names) == set(kind.model_fields) - set(shown_before.model_fields if shown_before else ())
    for name, shown, variable in rows:
        default = kind.model_fields[name].get_default()
        text = " ".join(default) if isinstance(default, tuple) else default
        assert shown == ("" if default in ((), {}, None) else f"`{text}`"), name
        assert variable == name.upper()


def test_the_architecture_page_has_the_layers_of_import_linter() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = tools["importlinter"]["contracts"][0]["layers"]
    drawn = re.search(r"^```text\n(cli\n.*?)```", PAGES["docs/architecture.md"], re.DOTALL | re.MULTILINE)
    assert drawn is not None
    assert drawn[1].splitlines() == [layer.replace("physiq_ray.", "") for layer in layers]
    rows = re.findall(r"^\| `([a-z]+)` \| .+ \|$", PAGES["docs/architecture.md"], re.MULTILINE)
    packages = {path.stem for path in (ROOT / "physiq_ray").iterdir() if not path.name.startswith("_")}
    assert packages <= set(rows)
    assert packages == {name for layer in drawn[1].splitlines() for name in layer.split(" | ")}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`((?:physiq_ray|tests|docs|mappings|benchmarks|\.ci)/[^` ]+)`", PAGES[page])
    made = {"mappings/class_mapping.json"}  # a training writes it
    assert [path for path in named if path not in made and not (ROOT / path).exists()] == []
