"""Text for terminals that cannot show all of it: an ASCII stream, a code page of Windows."""

import codecs
import sys
from typing import TextIO

_HANDLER = "physiq-terminal"
# What our own output is drawn with; anything else is a name, which must stay recognisable.
_PLAIN = {
    **{"✓": "*", "█": "#", "▶": ">", "…": "...", "×": "x", "→": "->", "–": "-", "—": "-", "≥": ">="},
    **{"🎯": "==", "📦": "--", "━": "-", "╸": "-", "╺": "-", "•": "*"},
}


def print_anywhere() -> None:
    r"""Let stdout and stderr take any text: what their encoding lacks is spelt out, nothing raises.

    Symbols of ours become ASCII of the same meaning, letters of names escapes such as \xe9.
    """
    codecs.register_error(_HANDLER, _spell_out)
    for stream in (sys.stdout, sys.stderr):
        _set_errors(stream)


def _set_errors(stream: TextIO | None) -> None:
    reconfigure = getattr(stream, "reconfigure", None)  # a program's own stream may have none; it may be None
    if reconfigure is not None:
        reconfigure(errors=_HANDLER)


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = (_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in text)
    return "".join(plain), error.end
