"""Completion as bash does it: by the function that `sweep.py completion bash` defines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweeps import ROOT, environment

COMPLETE = """
eval "$(python sweep.py completion bash)"
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
complete -p sweep.py | grep -o '_[a-z_]*completion' | {{ read name; $name ./sweep.py; echo "${{COMPREPLY[@]}}"; }}
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("./sweep.py le", "leaderboard"),
        ("./sweep.py leaderboard ''", "autumn spring"),
        ("./sweep.py compare spring a", "autumn"),
        ("./sweep.py run --spa", "--space"),
        ("./sweep.py run --space smo", "smoke"),
        ("./sweep.py data c", "check"),
    ],
)
def test_a_shell_completes_commands_options_and_sweeps(tmp_path: Path, words: str, expected: str) -> None:
    for name in ("spring", "autumn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").write_text("{}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {**environment(), "PATH": path, "SWEEP_STORAGE": str(tmp_path)}
    command = ["bash", "-c", COMPLETE.format(words=words)]
    found = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=60)
    assert found.stdout.split() == expected.split(), found.stderr
