"""What to explore: one function of an Optuna trial per method, and the named spaces that use them."""

from __future__ import annotations

from search_spaces.extras import EXTRAS, first_extras, suggest_extras
from search_spaces.own import read_space, space_from_text
from search_spaces.space import Space
from search_spaces.spaces import SPACES, space_named

__all__ = [
    "EXTRAS",
    "SPACES",
    "Space",
    "first_extras",
    "read_space",
    "space_from_text",
    "space_named",
    "suggest_extras",
]
