"""What a free-form value is made of: bare keys and text, and the bounds that no schema states for them.

A schema can say nothing about what lies within a free-form value, so the grammar does: a model that repeats itself
there comes to an end. Reading (`router.parse`) and judging (`router.validate`) know none of these bounds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from router.regular import Node, but, cat, optional, repeat, without
from router.wire import WireFormat

FREE_DEPTH: Final = 4
"""Lists and objects within each other in a free-form value."""
FREE_KEYS: Final = 16
"""Keys that an object may have besides the declared ones, where its schema gives no ``maxProperties``."""
MOST_KEYS: Final = 64
"""Further keys that the grammar allows at most, whatever ``maxProperties`` says: with declared keys among them, each is
a rule per declared key."""
FREE_KEY_LENGTH: Final = 64
"""Characters of a key that no schema declares."""
FREE_ITEMS: Final = 16
"""Items of a list within a free-form value."""
FREE_LENGTH: Final = 256
"""Characters of a string within a free-form value."""
MAX_ITEMS: Final = 64
"""Items of a declared array, where its schema gives no ``maxItems`` (more, where its ``minItems`` is)."""
SPACES: Final = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x20\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""What `str.strip` removes."""
_CONTROL: Final = "".join(chr(p) for p in (*range(32), 127))
_STRUCTURE: Final = ":{}[],"


@lru_cache(maxsize=8)
def free_text(wire: WireFormat) -> Node:
    """Text without anything spelled like a control token, which could not be written. All begin with one character."""
    return without(wire.reserved)


@lru_cache(maxsize=8)
def free_key(wire: WireFormat) -> Node:
    """A bare key of at most `FREE_KEY_LENGTH` characters: no structure, no control character, no space at its ends, not
    spelled like a control token.

    Keys leave out the character that opens every control token, which spares the grammar an intersection.
    """
    barred = _CONTROL + _STRUCTURE + wire.escape[0]
    outer, inner = but(barred + SPACES), but(barred)
    return cat(outer, optional(cat(repeat(inner, 0, FREE_KEY_LENGTH - 2), outer)))
