"""Tasks that somebody ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sweeps import ROOT, environment


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_tasks_end_by_ctrl_c_and_by_a_batch_system_in_one_sentence(tmp_path: Path, sent: signal.Signals) -> None:
    marker, log = tmp_path / "begun", tmp_path / "log"
    code = (
        "import sys, time, sweep\n"
        "from pathlib import Path\n"
        "from rich.console import Console\n"
        "from orchestrator.tasks import TaskRunner\n"
        "def nap(device, marker):\n"
        "    Path(marker).touch()\n"
        "    time.sleep(600)\n"
        "@sweep.cli.command()\n"
        "def naps():\n"
        f"    list(TaskRunner(Console()).run(nap, [{{'marker': {str(marker)!r}}}], 'naps'))\n"
        "sys.argv = ['sweep.py', 'naps']\n"
        "sweep.main()\n"
    )
    with log.open("w") as shown:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment(),
            stdout=shown,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not marker.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        process.send_signal(sent)
        assert process.wait(60) == 130, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert log.read_text().strip().splitlines()[-1] == "Interrupted; the same command goes on."
    assert "***" not in log.read_text()
    assert "Traceback" not in log.read_text()
