"""What health reports: one thing found, how grave it is, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing found: ``severity`` is problem (exit code 1) or notice; ``remedy`` the next command, if there is one."""

    code: str
    severity: str
    message: str
    remedy: str | None = None
    count: int | None = None
