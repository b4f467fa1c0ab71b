"""What the documentation tells people to type: commands, in the order of the page."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / ".github/CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONSOLES = ("console", "bash", "sh", "shell")
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
COMMENT = re.compile(r"[ ]+#[ ].*$", re.MULTILINE)
PROGRAMS = (
    "apt aws cluster/mlflow/postgres.sh docker export gcloud kubectl make mlflow openssl pip python ray sbatch source"
)
"""A span of a sentence that begins with one of these and goes on can be typed; `sweep.py select` names a command."""
ELIDED = "…"


@dataclass(frozen=True)
class Command:
    """One command line of a page, or several that a block shows behind one prompt."""

    page: str
    text: str
    """As the shell gets it, without the comment."""
    position: int
    in_block: bool

    @property
    def arguments(self) -> list[list[str]]:
        """Of every ``sweep.py`` in it."""
        found = []
        for line in self.text.splitlines():
            before, script, after = line.partition("sweep.py")
            while script:
                if "#" not in before and not re.match(r"[\w.]", after):
                    inside = after.partition("'")[0] if before.count("'") % 2 else after
                    words = shlex.split(inside.replace("$step", "select"), comments=True)
                    found.append(_until_the_end([word for word in words if word != ELIDED]))
                before, script, after = after.partition("sweep.py")
        return found


def commands(page: Path) -> list[Command]:
    """All that a page tells to type, in its blocks and in its sentences."""
    text = page.read_text(encoding="utf-8")
    found = [
        Command(page.name, line, block.start() + number, True)
        for block in FENCE.finditer(text)
        if block["kind"] in CONSOLES
        for number, line in enumerate(_typed(textwrap.dedent(block["text"])))
    ]
    sentences = FENCE.sub(lambda block: " " * len(block[0]), text)
    for span in SPAN.finditer(sentences):
        words = span[1].split()
        if len(words) > 1 and words[0].removeprefix(".venv/bin/") in PROGRAMS.split():
            found.append(Command(page.name, " ".join(words), span.start(), False))
    return sorted(found, key=lambda command: command.position)


def blocks(page: Path, kind: str) -> list[tuple[int, str]]:
    """Position and text of a page's blocks of one kind, such as ``python``."""
    text = page.read_text(encoding="utf-8")
    return [(block.start(), textwrap.dedent(block["text"])) for block in FENCE.finditer(text) if block["kind"] == kind]


def _typed(block: str) -> list[str]:
    lines: list[str] = []
    for line in re.sub(r"[ ]*\\\n[ ]*", " ", block).splitlines():
        if line.startswith("$ "):
            lines.append(line[2:])
        elif line.strip():
            lines[-1] += f"\n{line}"
    return [COMMENT.sub("", line).strip() for line in lines]


def _until_the_end(words: list[str]) -> list[str]:
    arguments = []
    for word in words:
        if word in {"&&", "|", ";", "||", "&", ">", "--"}:
            break
        arguments.append(word.rstrip(";"))
        if word.endswith(";"):
            break
    return arguments
