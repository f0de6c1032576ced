"""Markdown as prose and fenced blocks: the site and the check of examples must agree about where a block begins and ends."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)(?P<rest>.*)$")
# Remarks for the check of examples, which no reader needs.
REMARK = re.compile(r"<!--\s*(?P<kind>run|not run|server):(?P<text>.*?)-->", re.DOTALL)


@dataclass
class Part:
    """Prose if `language` is None, else a fenced block without its fences."""

    lines: list[str]
    line: int  # of the page, from 1
    language: str | None = None
    opening: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def read_parts(text: str) -> list[Part]:
    parts, prose = [], Part([], 1)
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if not opening:
            prose.lines.append(lines[number])
            number += 1
            continue
        block = read_block(lines, number, opening)
        parts += [prose, block]
        number += len(block.lines) + 2
        prose = Part([], number + 1)
    return parts + [prose]


def read_block(lines: list[str], number: int, opening: re.Match) -> Part:
    """The block that begins at lines[number]; one that never ends goes to the end of the page."""
    fence, indent = opening["fence"], len(opening["indent"])
    inside = []
    for line in lines[number + 1 :]:
        if re.fullmatch(rf" *{fence[0]}{{{len(fence)},}}\s*", line):
            break
        inside.append(line[indent:] if not line[:indent].strip() else line)
    return Part(inside, number + 2, opening["language"].lower(), lines[number])


def without_remarks(prose: str) -> str:
    """A remark goes with its line break, so that no empty line is left in a list."""
    return re.sub(REMARK.pattern + r"\n?", "", prose, flags=re.DOTALL)
