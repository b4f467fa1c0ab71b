"""An HTTP proxy before an S3 server that fails as it is told: what networks and busy stores do, on demand."""

from __future__ import annotations

import math
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ALWAYS = math.inf

REFUSALS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
}
"""Faults that are answers: status, code and message, as S3 gives them."""

# reset: the connection ends before an answer; mute: it stays without one. lost: all was done, the answer is lost.
# cut: the connection is reset in the middle of the body; truncated: it ends there; stall: nothing more comes. slow: the
# body comes in pieces; trickle: byte by byte. short: half a body that says it is whole; garbled: one wrong byte.
FAULTS = (*REFUSALS, "mute", "reset", "lost", "cut", "truncated", "stall", "slow", "trickle", "short", "garbled")

_NOT_PASSED_ON = ("connection", "content-length", "host", "transfer-encoding", "expect", "keep-alive")


@dataclass
class Rule:
    """A fault, what it happens to and how often."""

    fault: str
    method: str
    path: str
    times: float
    after: int


class FaultProxy:
    """Hands requests on to ``upstream``, apart from those that a rule is for."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.log: list[tuple[str, str, str]] = []
        self.moments: list[float] = []
        """When each request of the log came, by `time.monotonic`."""
        """Method, path and fault (empty: none) of every request."""
        self.headers: list[dict[str, str]] = []
        """Headers of every request, names in small letters."""
        self.closing = threading.Event()
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def fail(self, fault: str, *, method: str = "", path: str = "", times: float = 1, after: int = 0) -> None:
        """Let the next ``times`` requests fail that match, once ``after`` of them went well."""
        assert fault in FAULTS
        with self._lock:
            self._rules.append(Rule(fault, method, path, times, after))

    def heal(self) -> None:
        with self._lock:
            self._rules.clear()

    def count(self, fault: str) -> int:
        return sum(found == fault for _, _, found in self.log)

    def choose(self, method: str, path: str) -> str:
        """The fault of a request, which the log remembers."""
        with self._lock:
            fault = next((rule.fault for rule in self._rules if _applies(rule, method, path)), "")
            self.log.append((method, path, fault))
            self.moments.append(time.monotonic())
        return fault

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _applies(rule: Rule, method: str, path: str) -> bool:
    if not re.fullmatch(rule.method or ".*", method) or not re.search(rule.path, path):
        return False
    if rule.after > 0:
        rule.after -= 1
        return False
    if rule.times <= 0:
        return False
    rule.times -= 1
    return True


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that give up are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def _handle(self) -> None:
        body = self._request_body()
        fault = self.proxy.choose(self.command, self.path)
        self.proxy.headers.append({name.lower(): value for name, value in self.headers.items()})
        if fault in REFUSALS:
            self._refuse(*REFUSALS[fault])
        elif fault == "reset":
            self._reset()
        elif fault == "mute":
            self.close_connection = True
            self.proxy.closing.wait(60)
        else:
            status, headers, content = self._passed_on(body)
            if fault == "lost":
                self._reset()
            else:
                self._answer(status, headers, content, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 - names of the base class

    def _request_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while length := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return body

    def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection(self.proxy.upstream, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _NOT_PASSED_ON]
        length = answer.getheader("Content-Length") or "0" if self.command == "HEAD" else str(len(content))
        connection.close()
        return answer.status, [*kept, ("Content-Length", length)], content

    def _refuse(self, status: int, code: str, message: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, fault: str) -> None:
        if fault == "short":
            content = content[: len(content) // 2]
        if fault == "garbled":
            content = content[:-1] + bytes([content[-1] ^ 1])
        length = [("Content-Length", str(len(content)))] if fault == "short" else []
        self.send_response(status)
        for name, value in [(n, v) for n, v in headers if not length or n != "Content-Length"] + length:
            self.send_header(name, value)
        self.end_headers()
        self._write_body(content, fault)

    def _write_body(self, content: bytes, fault: str) -> None:
        half = content[: len(content) // 2]
        if fault == "slow":
            for start in range(0, len(content), max(1, len(content) // 8)):
                self.wfile.write(content[start : start + max(1, len(content) // 8)])
                time.sleep(0.1)
        elif fault == "trickle":
            for byte in content:
                self.wfile.write(bytes([byte]))
                if self.proxy.closing.wait(0.1):
                    return
        elif fault in ("cut", "truncated", "stall"):
            self.wfile.write(half)
            self.close_connection = True
            if fault == "cut":
                self._reset()
            elif fault == "stall":
                self.proxy.closing.wait(60)
        else:
            self.wfile.write(content)

    def _reset(self) -> None:
        """End the connection by RST: what lingers is thrown away."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name of the base class
        """The proxy has a log of its own."""
