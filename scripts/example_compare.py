"""Whether what an example printed is what its page shows.

Numbers may differ by 5 % or 0.02, because processors round differently; ids, times and sha256 only have to look like it.
`...` stands for anything: as a line for any lines, within a line or a value for any text. White space is not compared.
"""

from __future__ import annotations

import difflib
import functools
import json
import re

LEFT_OUT = "..."
SHAPES = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<sha256>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?UTC|Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\b"), "<time>"),
)
NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?"
# A status is no measurement: 200 is not about 201.
STATUS = re.compile(r'^\s*(?:HTTP/[\d.]+ |"?status"?: )?([2-5]\d\d)\b(?![.,]\d)')
RELATIVE, ABSOLUTE = 0.05, 0.02


def difference(expected: str, language: str, printed: str) -> str | None:
    """A diff of the page (-) and what was printed (+), or nothing if they agree."""
    wanted, candidates = lines_of(expected), [printed, *reprinted(printed)]
    verdict = documents_agree(expected, printed) if language == "json" else None
    if verdict is None:
        verdict = any(lines_agree(wanted, lines_of(candidate), language) for candidate in candidates)
    if verdict:
        return None
    got = lines_of(min(candidates, key=lambda text: abs(len(lines_of(text)) - len(wanted))))
    return diff(wanted, got, language)


def documents_agree(expected: str, printed: str) -> bool | None:
    """Nothing if they cannot be told by their values: lines are left out, or there are several documents."""
    try:
        return agree(json.loads(expected), json.loads(printed))
    except ValueError:
        return None


def reprinted(printed: str) -> list[str]:
    """JSON that came in one line, as pages show it."""
    try:
        document = json.loads(printed)
    except ValueError:
        return []
    return [json.dumps(document, indent=indent, ensure_ascii=plain) for indent in (4, 2) for plain in (True, False)]


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def agree(expected, got) -> bool:
    """Two values of JSON."""
    if expected == LEFT_OUT:
        return True
    if isinstance(expected, dict) and isinstance(got, dict):
        named = expected.keys() - {LEFT_OUT}
        complete = got.keys() == named or LEFT_OUT in expected and got.keys() >= named
        return complete and all(agree(expected[key], got[key]) if key != "status" else expected[key] == got[key] for key in named)
    if isinstance(expected, list) and isinstance(got, list):
        if LEFT_OUT in expected:
            return all(any(agree(item, candidate) for candidate in got) for item in expected if item != LEFT_OUT)
        return len(expected) == len(got) and all(map(agree, expected, got))
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
        return close(expected, got)
    if isinstance(expected, str) and isinstance(got, str):
        return line_agrees(expected, got)
    return expected == got


def close(a: float, b: float) -> bool:
    return abs(a - b) <= max(ABSOLUTE, RELATIVE * max(abs(a), abs(b)))


def lines_agree(expected: list[str], got: list[str], language: str) -> bool:
    """As with a pattern of a shell: a line that is only `...` takes any lines."""

    @functools.lru_cache(maxsize=None)
    def same(i: int, j: int) -> bool:
        return line_agrees(expected[i], got[j], language)

    reachable = {0}  # how many lines of `got` the expected ones so far may have taken
    for i, line in enumerate(expected):
        if is_left_out(line):
            reachable = set(range(min(reachable), len(got) + 1)) if reachable else set()
        else:
            reachable = {j + 1 for j in reachable if j < len(got) and same(i, j)}
    return len(got) in reachable


def is_left_out(line: str) -> bool:
    return line.strip().rstrip(",") == LEFT_OUT


@functools.lru_cache(maxsize=None)
def line_agrees(expected: str, got: str, language: str = "text") -> bool:
    expected, got = shaped(expected, language), shaped(got, language)
    statuses = STATUS.match(expected), STATUS.match(got)
    if any(statuses) and not (all(statuses) and statuses[0][1] == statuses[1][1]):
        return False
    found = re.fullmatch(pattern_of(expected), got)
    if not found:
        return False
    numbers = re.findall(NUMBER, expected)
    return all(close(number(a), number(b)) for a, b in zip(numbers, found.groups()))


def shaped(line: str, language: str) -> str:
    """Without what only has to look right. Where the rest of an object is left out in JSON, a comma hangs in the air."""
    for shape, name in SHAPES:
        line = shape.sub(name, line)
    line = " ".join(line.split())
    return line.rstrip(",") if language == "json" else line


@functools.lru_cache(maxsize=None)
def pattern_of(line: str) -> str:
    pieces = re.split(rf"({NUMBER})", line)
    pattern = "".join(f"({NUMBER})" if odd else re.escape(piece) for piece, odd in zip(pieces, [False, True] * len(pieces)))
    return pattern.replace(re.escape(LEFT_OUT), ".*").replace("\\ ", r"\s+")


def number(text: str) -> float:
    return float(text.replace(",", ""))


def diff(expected: list[str], got: list[str], language: str) -> str:
    """What differs, and a little around it. Printed lines that the page leaves out are left out here too."""
    real, gaps = [], set()  # where the page leaves something out: before which of its real lines
    for line in expected:
        if is_left_out(line):
            gaps.add(len(real))
        else:
            real.append(line)
    as_shown = [next((line for line in real if line_agrees(line, other, language)), other) for other in got]
    text = []
    for kind, i, i_end, j, j_end in difflib.SequenceMatcher(None, real, as_shown, autojunk=False).get_opcodes():
        if kind == "equal":
            text += shortened(real[i:i_end])
            continue
        printed = got[j:j_end]
        if gaps & set(range(i, i_end + 1)):
            printed = [match for line in real[i:i_end] for match in difflib.get_close_matches(line, printed, 1)]
        text += [f"- {line}" for line in real[i:i_end]] + [f"+ {line}" for line in printed]
    return "\n".join(text)


def shortened(lines: list[str]) -> list[str]:
    shown = [f"  {line}" for line in lines]
    return shown if len(shown) < 6 else [*shown[:2], f"  ({len(shown) - 4} lines that agree)", *shown[-2:]]
