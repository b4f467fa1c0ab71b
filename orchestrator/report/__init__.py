"""One self-contained HTML page about a sweep: what it found, how sure that is, and what is not known yet."""

from __future__ import annotations

from orchestrator.report.page import write_report

__all__ = ["write_report"]
