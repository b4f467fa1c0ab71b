"""Machines on one computer, made of Linux namespaces: what the rehearsals of clusters run on. Not run by itself.

Each machine has an address, processes, a home, a /tmp and a /dev/shm of its own, and an sshd that lets its one user in
by key. They hang on a bridge in the operator's machine, which has no way out: nothing reaches the computer's own
network or processes, and all of it is gone when the script ends, however it ends. Needs root, iproute2, OpenSSH, rsync.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.prepared import prepare_packages, write_scripts

USER, USER_ID = "lab", 4242
OPERATOR = "192.168.1.1"
"""The operator's address."""
ROOT = Path(__file__).parents[1]
TOOLS = ("ip", "nsenter", "rsync", "runuser", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare")
SHARED = "/srv"
"""A folder that all machines see."""

OPERATOR_BOOT = f"""
set -eu
mount --bind "$1" /etc/passwd
ip link set lo up
ip link add lab0 type bridge
ip addr add {OPERATOR}/24 dev lab0
ip link set lab0 up
while sleep 3600; do :; done
"""
MACHINE_BOOT = f"""
set -eu
name=$1 address=$2 own=$3 all=$4
hostname "$name"
ip link set lo up
for file in passwd group shadow hosts resolv.conf; do mount --bind "$all/etc/$file" "/etc/$file"; done
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 shm /dev/shm
mkdir -p /run/sshd /run/keys
install -m 600 "$own/ssh/host_key" "$all/sshd_config" /run/keys
mount --bind "$5" "$all/opt/python"
mount --bind "$6" "$all/opt/site-packages"
mount --rbind "$all/opt" /opt
case "$5" in  # a Python that lies where only root may look; it loads its library from there
  /root/*) mount -t tmpfs -o mode=755 root /root && mkdir -p "$5" && mount --bind "$all/opt/python" "$5" ;;
esac
mount --bind "$all/shared" {SHARED}
mount --bind "$own/home" /home
mount --bind "$own/tmp" /tmp
cd /
until ip -4 addr show dev eth0 2> /dev/null | grep -q "$address"; do sleep 0.1; done
"$7" -D -e -f /run/keys/sshd_config &
while :; do wait -n || sleep 1; done
"""
"""The last line also reaps what loses its parent: a machine's first process has to."""
SSHD_CONFIG = f"""
Port 22
HostKey /run/keys/host_key
PidFile none
AllowUsers {USER}
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
LogLevel ERROR
"""
FILES = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
    f"{USER}:x:{USER_ID}:{USER_ID}::/home/{USER}:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
    "etc/group": f"root:x:0:\ntty:x:5:\n{USER}:x:{USER_ID}:\nnogroup:x:65534:\n",
    "etc/shadow": f"root:*:20000:0:99999:7:::\nsshd:*:20000:0:99999:7:::\n{USER}:*:20000:0:99999:7:::\n",
    "etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",  # refuses at once
    "sshd_config": SSHD_CONFIG,
}


def missing_tools() -> str:
    """What this computer lacks for a rehearsal, as a sentence; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root, for namespaces with networks of their own; start it with sudo"
    if absent := [tool for tool in TOOLS if _tool(tool) is None]:
        return f"needs {', '.join(absent)}; on Debian and Ubuntu: apt install iproute2 openssh-server rsync"
    return ""


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Machines:
    """The operator's machine and ``addresses``: name -> address in 192.168.1.0/24.

    Their users have an environment in ~/venv whose packages are those of the environment that runs this: the ones that
    the project needs at run time with ``extras``, and no others. What is missing here is downloaded.
    """

    def __init__(
        self, folder: Path, addresses: Mapping[str, str], extras: Sequence[str], shared_home: bool = False
    ) -> None:
        self.folder, self.addresses, self.shared_home = folder, dict(addresses), shared_home
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._pids: dict[str, int] = {}
        self.home = folder / "operator"
        """The operator's home."""
        self._write_files()
        self.dists = prepare_packages(folder / "opt", extras)

    def __enter__(self) -> Machines:
        try:
            self._start("operator", ["--net", "--pid", "--mount"], OPERATOR_BOOT, str(self.folder / "operator-passwd"))
            for name in self.addresses:
                self._start_machine(name)
            self._make_environments()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def own(self, name: str) -> Path:
        """A machine's folder on this computer."""
        return self.folder / name

    def user_home(self, name: str) -> Path:
        """Its user's home."""
        return self.own(next(iter(self.addresses)) if self.shared_home else name) / "home" / USER

    def _write_files(self) -> None:
        hosts = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        for place, content in {**FILES, "etc/hosts": f"127.0.0.1 localhost\n{OPERATOR} operator\n{hosts}"}.items():
            self.write(self.folder / place, content)
        # `ray up` leaves it to ssh to say where ~ is, and ssh asks here.
        users = Path("/etc/passwd").read_text().replace(":/root:", f":{self.home}:", 1)
        self.write(self.folder / "operator-passwd", users)
        for place in ("opt/python", "opt/site-packages", "shared", "operator/.ssh"):
            (self.folder / place).mkdir(parents=True, exist_ok=True)
        (self.folder / "shared").chmod(0o1777)
        _make_key(self.home / ".ssh/id_ed25519")
        for name in self.addresses:
            (self.own(name) / "ssh").mkdir(parents=True)
            _make_key(self.own(name) / "ssh/host_key")
            (self.own(name) / "tmp").mkdir()
            (self.own(name) / "tmp").chmod(0o1777)
            home = self.user_home(name)
            if not home.exists():
                self._write_home(home)

    def _write_home(self, home: Path) -> None:
        shutil.copytree("/etc/skel", home)
        home.parent.chmod(0o755)
        public = (self.home / ".ssh/id_ed25519.pub").read_text()
        self.write(home / ".ssh/authorized_keys", public)
        with (home / ".profile").open("a") as profile:  # the lab's Python, found by login shells
            profile.write('PATH="/opt/python/bin:$PATH"\n')
        self.write(home / ".config/pip/pip.conf", "[global]\nno-index = true\nfind-links = /opt/wheels\n")
        self.give(home)

    def write(self, path: Path, content: str) -> None:
        """Write a file; folders above it are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def give(self, folder: Path) -> None:
        """Make ``folder`` the machines' user's."""
        for path in (folder, *folder.rglob("*")):
            os.chown(path, USER_ID, USER_ID, follow_symlinks=False)
            if path.name == ".ssh":
                path.chmod(0o700)

    def _start(self, name: str, namespaces: list[str], script: str, *words: str) -> None:
        apart = ["setpriv", "--pdeathsig=KILL", "unshare", *namespaces, "--mount-proc", "--fork", "--kill-child"]
        line = [*apart, "bash", "-c", script, name, *words]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self._started[name] = process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        found: list[str] = []
        while not found:  # unshare forks the machine's first process
            if process.poll() is not None:
                said = (self.folder / f"{name}.log").read_text()
                raise RuntimeError(f"machine {name} did not start: {said}")
            with suppress(OSError):
                found = children.read_text().split()
            time.sleep(0.05)
        self._pids[name] = int(found[0])

    def _start_machine(self, name: str) -> None:
        address, own = self.addresses[name], self.own(name)
        home = self.user_home(name).parent
        if home != own / "home":
            (own / "home").symlink_to(home)
        site = next(path for path in sys.path if path.endswith("site-packages"))
        words = [name, address, str(own), str(self.folder), sys.base_prefix, site, str(_tool("sshd"))]
        self._start(name, ["--net", "--pid", "--mount", "--uts", "--ipc"], MACHINE_BOOT, *words)
        there = str(self._pids[name])
        self._in_network("operator", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", there)
        self._in_network("operator", "link", "set", name, "master", "lab0", "up")
        self._in_network(name, "addr", "add", f"{address}/24", "dev", "eth0")
        self._in_network(name, "link", "set", "eth0", "up")
        self._in_network(name, "route", "add", "default", "via", OPERATOR)  # Ray asks which address leads outside

    def _in_network(self, name: str, *words: str) -> None:
        network = f"--net=/proc/{self._pids[name]}/ns/net"
        subprocess.run(["nsenter", network, "ip", *words], check=True)

    def _make_environments(self) -> None:
        """~/venv on every machine: made on the first, copied to the others."""
        first, *others = self.addresses
        self.as_user(first, "/opt/python/bin/python3 -m venv ~/venv", check=True)
        venv = self.user_home(first) / "venv"
        write_scripts(venv, f"/home/{USER}/venv", self.dists)
        self.give(venv)
        for name in others:
            if not self.shared_home:
                shutil.copytree(venv, self.user_home(name) / "venv", symlinks=True)
                self.give(self.user_home(name) / "venv")

    def command(self, name: str, *words: str) -> list[str]:
        """What runs ``words`` on the machine, as root."""
        kinds = ["--mount", "--pid", "--net"] + ([] if name == "operator" else ["--uts", "--ipc"])
        return ["nsenter", f"--target={self._pids[name]}", *kinds, f"--wd={ROOT}", *words]

    def as_user(self, name: str, line: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a line of shell in the user's login shell on the machine."""
        words = self.command(name, "runuser", "--login", USER, "--command", line)
        words = [word for word in words if not word.startswith("--wd=")]
        return subprocess.run(words, capture_output=True, text=True, check=check, timeout=400, cwd="/")

    def operator_environment(self) -> dict[str, str]:
        """The operator's: a home of its own, nothing of this process's options."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SWEEP_", "RAY_", "AWS_", "MLFLOW_"))}
        (self.home / "tmp").mkdir(exist_ok=True)
        return {**kept, "HOME": str(self.home), "RAY_TMPDIR": str(self.home / "tmp"), "RAY_USAGE_STATS_ENABLED": "0"}

    def processes(self, name: str) -> dict[int, str]:
        """Command lines of what runs on the machine, by this computer's process id."""
        here = Path(f"/proc/{self._pids[name]}/ns/pid").readlink()
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if (place / "ns/pid").readlink() == here:
                    found[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ").strip()
        return found

    def end_processes_of_user(self, name: str) -> None:
        """Kill what the machine's user runs."""
        for pid in self.processes(name):
            with suppress(OSError):
                if Path(f"/proc/{pid}").stat().st_uid == USER_ID:
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the machines; the kernel ends all that runs on them."""
        for process in self._started.values():
            process.kill()
        for process in self._started.values():
            process.wait(20)
        self._started.clear()


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
