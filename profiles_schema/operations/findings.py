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


def problem(code: str, message: str, remedy: str | None = None, count: int | None = None) -> Finding:
    """A finding that makes health exit with 1."""
    return Finding(code, "problem", message, remedy, count)


def notice(code: str, message: str, remedy: str | None = None, count: int | None = None) -> Finding:
    """A finding that is worth knowing and no failure."""
    return Finding(code, "notice", message, remedy, count)
