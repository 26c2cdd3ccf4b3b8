"""Text on terminals whose encoding lacks some characters: an ASCII stream, a code page of Windows."""

import codecs
import sys
from typing import TextIO

_HANDLER = "physiq-terminal"
# The symbols of our own output. All other characters belong to names, which must stay recognisable.
_PLAIN = {
    **{"✓": "*", "█": "#", "▶": ">", "…": "...", "×": "x", "→": "->", "–": "-", "—": "-", "≥": ">="},
    **{"🎯": "==", "📦": "--", "━": "-", "╸": "-", "╺": "-", "•": "*"},
}


def print_anywhere() -> None:
    r"""Let stdout and stderr accept any text: characters that their encoding lacks are replaced.

    Our own symbols become ASCII of the same meaning; letters of names become escapes such as \xe9.
    """
    codecs.register_error(_HANDLER, _spell_out)
    for stream in (sys.stdout, sys.stderr):
        _set_errors(stream)


def _set_errors(stream: TextIO | None) -> None:
    reconfigure = getattr(stream, "reconfigure", None)  # another program's stream may lack it, or may be None
    if reconfigure is not None:
        reconfigure(errors=_HANDLER)


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = (_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in text)
    return "".join(plain), error.end
