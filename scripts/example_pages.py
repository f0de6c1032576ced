"""The examples of a page: which blocks run, in which order, what they must print, and why others do not run.

- `sh`, `python` and `js` blocks run. A `json` or `text` block after one of them is its output.
- A `console` block has lines `$ command`, each with its output below.
- `<!-- run: COMMANDS -->` runs without being shown; `<!-- server: FLAGS -->` sets the page's server up.
- `<!-- not run: REASON -->` right before a block leaves it out, and its output with it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from doc_pages import CHECKOUT, REMARK, Part, read_parts

RUN = ("sh", "python", "js")
OUTPUT = ("json", "text")
# Names that would silently keep an example from being run.
MISNAMED = {"bash": "sh", "shell": "sh", "py": "python", "javascript": "js", "sh-session": "console"}


@dataclass
class Step:
    """Commands that run together, and what they must print, if the page says it."""

    language: str
    code: str
    line: int  # of the page
    shown: bool = True
    output: Part | None = None


@dataclass
class Page:
    name: str
    steps: list[Step] = field(default_factory=list)
    server: list[str] = field(default_factory=list)  # flags of `faceid serve`
    left_out: list[tuple[int, str]] = field(default_factory=list)  # line and reason
    problems: list[tuple[int, str]] = field(default_factory=list)

    @property
    def shown(self) -> list[Step]:
        return [step for step in self.steps if step.shown]


class Reader:
    """Goes through a page once; what a block means depends on what came before it."""

    def __init__(self, name: str):
        self.page = Page(name)
        self.reason: str | None = None  # why the next block does not run
        self.printed_by: Step | None = None  # whose output may come next
        self.skipping = False  # the last block that could run was left out

    def prose(self, part: Part) -> None:
        for remark in REMARK.finditer(part.text):
            line = part.line + part.text[: remark.start()].count("\n")
            text = remark["text"].strip()
            if remark["kind"] == "run":
                first = line + remark["text"][: len(remark["text"]) - len(remark["text"].lstrip())].count("\n")
                self.page.steps.append(Step("sh", text, first, shown=False))
            elif remark["kind"] == "server":
                self.page.server = shlex.split(text)
            elif part.text[remark.end() :].strip():
                self.page.problems.append((line, "`not run` stands before no block"))
            else:
                self.reason = text or "no reason is given"

    def block(self, part: Part) -> None:
        if part.language in MISNAMED:
            self.page.problems.append((part.line - 1, f"write {MISNAMED[part.language]} rather than {part.language}, or it will not be run"))
        elif part.language in (*RUN, "console"):
            self.runnable(part)
        elif part.language in OUTPUT:
            self.printed(part)
        self.reason = None

    def runnable(self, part: Part) -> None:
        self.skipping, self.printed_by = self.reason is not None, None
        if self.skipping:
            self.page.left_out.append((part.line, self.reason))
        elif part.language == "console":
            self.page.steps += session(part)
        else:
            self.printed_by = Step(part.language, part.text, part.line)
            self.page.steps.append(self.printed_by)

    def printed(self, part: Part) -> None:
        if self.reason is not None:
            self.page.left_out.append((part.line, self.reason))
        elif self.printed_by:
            self.printed_by.output = part
        elif part.language == "json" and not self.skipping:
            self.page.problems.append((part.line - 1, "a json block is an output, and no command is before it; a fragment or a request is jsonc"))
        self.printed_by = None


def session(part: Part) -> list[Step]:
    """The commands of a `console` block. A backslash at the end of a command continues it on the next line."""
    steps: list[Step] = []
    continued = False
    for number, line in enumerate(part.lines, part.line):
        if continued:
            steps[-1].code += "\n" + line.removeprefix("> ")
        elif line.startswith("$ "):
            steps.append(Step("sh", line[2:], number))
        elif steps and line.strip():
            output = steps[-1].output = steps[-1].output or Part([], number, "text")
            output.lines.append(line)
            continue
        continued = line.endswith("\\")
    return steps


def read_page(name: str) -> Page:
    reader = Reader(name)
    for part in read_parts((CHECKOUT / name).read_text(encoding="utf-8")):
        reader.prose(part) if part.language is None else reader.block(part)
    return reader.page
