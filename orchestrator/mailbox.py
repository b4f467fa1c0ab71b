"""The actor through which a slot and its workers talk.

A module of its own, without torch: the actor's process imports what its class's module does, and only waits.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Mailbox:
    """Commands to the workers, in order and for every rank; answers from rank 0."""

    def __init__(self) -> None:
        self._commands: list[dict[str, Any]] = []
        self._arrived = asyncio.Condition()
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(self, command: dict[str, Any]) -> None:
        """Append a command."""
        async with self._arrived:
            self._commands.append(command)
            self._arrived.notify_all()

    async def command(self, index: int) -> dict[str, Any]:
        """The command at ``index``, as soon as there is one."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self._commands) > index)
            return self._commands[index]

    async def answer(self, answer: dict[str, Any]) -> None:
        """Hand an answer to the slot."""
        await self._answers.put(answer)

    async def next_answer(self, timeout: float) -> dict[str, Any] | None:
        """The next answer, or None if none came within ``timeout`` seconds."""
        try:
            return await asyncio.wait_for(self._answers.get(), timeout)
        except TimeoutError:
            return None
