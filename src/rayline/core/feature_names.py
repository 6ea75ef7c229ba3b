"""Names of features for libraries that refuse some characters: an escaped name, from which the original can be read back."""

from __future__ import annotations

from collections.abc import Mapping

NAMELESS = "\u2400"
"""What stands for an empty name."""

ESCAPE = "\u2426"
"""What stands before a character that means itself, although it is the substitute of another one."""


class Escaping:
    """Substitutes for characters, one to one: two names never become the same one.

    >>> escaping = Escaping({"=": "＝"})
    >>> escaping.escape("a=b＝")
    'a＝b␦＝'
    >>> escaping.restore(escaping.escape("a=b＝"))
    'a=b＝'
    """

    def __init__(self, substitutes: Mapping[str, str]) -> None:
        self._plain = {safe: plain for plain, safe in substitutes.items()}
        literal = {c: ESCAPE + c for c in (*substitutes.values(), NAMELESS, ESCAPE)}
        self._safe = str.maketrans({**literal, **substitutes})

    def escape(self, name: str) -> str:
        """Return the name with substitutes."""
        return name.translate(self._safe) or NAMELESS

    def restore(self, name: str) -> str:
        """Return the name that `escape` was given."""
        if name == NAMELESS:
            return ""
        out, literal = [], False
        for c in name:
            if c == ESCAPE and not literal:
                literal = True
            else:
                out.append(c if literal else self._plain.get(c, c))
                literal = False
        return "".join(out)
