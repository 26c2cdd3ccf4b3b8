"""Settings → a TOML file that `--config` reads, with the origin of each value."""

from collections.abc import Mapping
from typing import Any

from physiq_ray.config.base import BaseSettings


def write_toml(settings: BaseSettings, origins: Mapping[str, str]) -> str:
    r"""Write settings as TOML; a file with this text gives the same settings.

    origins: of `find_origins`. Defaults are comments, because some settings that were not given follow the
    hardware or the files that exist. Control characters are escapes.
    """
    lines = ["# Settings in force, each with its origin. Lines with # in front are defaults."]
    for group, names in settings.names_by_group().items():
        lines.append(f"\n# {group.title}: {group.text}")
        for name in names:
            value, origin = getattr(settings, name), origins.get(name)
            if origin is not None:
                lines.append(f"{name} = {_to_toml(value)}  # {_escape(origin)}")
            elif value is None:
                lines.append(f"# {name} is not given")
            else:
                lines.append(f"# {name} = {_to_toml(value)}  # default")
    return "\n".join(lines) + "\n"


def _to_toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_to_toml, value))}]"
    if isinstance(value, dict):
        pairs = (f"{_to_toml(key)} = {_to_toml(item)}" for key, item in value.items())
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    if isinstance(value, str):
        text = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{_escape(text)}"'
    return repr(value)


def _escape(text: str) -> str:
    """Write characters that TOML or a terminal does not take as escapes of TOML."""
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08X}" for letter in text)
