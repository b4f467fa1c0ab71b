"""Own search spaces: a Python file with a `Space` named ``SPACE``.

The file is the user's own program and runs as such. Its text is kept in the sweep's plan, so that a resume needs no
file and cannot meet another one.
"""

from __future__ import annotations

from pathlib import Path

from search_spaces.space import Space
from trainables.errors import ConfigError


def read_space(path: str) -> tuple[str, Space]:
    """Text and space of a file.

    Raises:
        ConfigError: it cannot be read, fails, or has no SPACE.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--space {path} cannot be read ({error}); expected a Python file with a SPACE") from error
    return text, space_from_text(text, path)


def space_from_text(text: str, name: str) -> Space:
    """The space that ``text`` defines; ``name`` is for errors.

    Raises:
        ConfigError: it fails, or has no SPACE.
    """
    module: dict[str, object] = {"__name__": "own_space", "__file__": name}
    try:
        exec(compile(text, name, "exec"), module)  # the user's own program, named on the command line
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"--space {name} fails with {type(error).__name__}: {error}; mend the file") from error
    space = module.get("SPACE")
    if not isinstance(space, Space):
        raise ConfigError(f"--space {name} holds no SPACE; expected SPACE = search_spaces.Space(...)")
    return space
