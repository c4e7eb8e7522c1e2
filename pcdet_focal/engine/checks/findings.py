"""What a check says, and how it is printed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Example:
    """A box worth looking at: ``box`` (7,) as labelled, ``corrected`` (7,) as it should probably be, or None."""

    frame_id: str
    name: str
    box: Any
    corrected: Any = None


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong ('error': training on this makes no sense), looks wrong ('warning') or is good to know
    ('note').

    check: the name of the check. what: what was seen, with figures. where: frames, files or key path. change: what to
    change, with the exact key or command; "" for a note that asks for nothing. examples: boxes to draw.
    """

    severity: str
    check: str
    what: str
    where: str
    change: str = ""
    examples: tuple[Example, ...] = ()


def some(values: Sequence[Any], max_values: int = 5) -> str:
    """``"a, b, c and 4 more"``."""
    values = list(dict.fromkeys(str(value) for value in values))
    more = f" and {len(values) - max_values} more" if len(values) > max_values else ""
    return ", ".join(values[:max_values]) + more


def report_lines(findings: Sequence[Finding], width: int = 150) -> list[str]:
    """The findings as a table, errors first: severity, check, what; below it where, and what to change."""
    lines = []
    for severity in SEVERITIES:
        for finding in findings:
            if finding.severity == severity:
                rows = [(f"{severity:<8} {finding.check}", finding.what), ("", f"in {finding.where}")]
                rows += [("", f"-> {finding.change}")] if finding.change else []
                for head, text in rows:
                    wrapped = textwrap.wrap(text, width - 34, break_long_words=False, break_on_hyphens=False) or [""]
                    lines += [f"{head if i == 0 else '':<33} {part}" for i, part in enumerate(wrapped)]
    return lines
