"""Turns what `bench.py` measured into tables, and puts them into benches/RESULTS.md without touching the rest of it."""

from __future__ import annotations

import os
import re
import shlex
import statistics
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

from bench_tools import BenchError

HEADING = "## Against the reference peer"
PARTS = ("networks", "http")
EXTENSIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
METHOD = """Method: `make bench`. The peer is FastAPI, ONNX Runtime and OpenCV behind the same routes, with the same weights and
photos. Both sides are bound to the same cores and measured in turn: peer, faceid, peer, faceid. A figure is the median
of the rounds, with the least and the most of them; a ratio is faceid's median divided by the peer's."""


@dataclass(frozen=True)
class Bar:
    """What a ratio has to reach, or for a latency may not exceed."""

    ratio: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"at most {self.ratio:.1f}x" if self.at_most else f"{self.ratio:.1f}x"

    def met(self, ratio: float) -> bool:
        return ratio <= self.ratio if self.at_most else ratio >= self.ratio


def figure(values: list[float]) -> str:
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.median(values))} ({number(min(values))} to {number(max(values))})"


def number(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1}f}"


def ratio(ours: list[float], peer: list[float]) -> float:
    return statistics.median(ours) / statistics.median(peer)


def verdict(met: bool, failed: int = 0) -> str:
    return f"no: {failed} failed" if failed else "yes" if met else "no"


def paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """The processor with the extensions that matter here, how many cores of it, and the memory."""
    about = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        about.setdefault(name.strip(), value.strip())
    flags = about.get("flags", "").split()
    has = ", ".join(name for name in EXTENSIONS if name in flags) or f"none of {', '.join(EXTENSIONS)}"
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    processor = f"{about.get('model name', 'unknown')} (family {about.get('cpu family', '?')}, model {about.get('model', '?')}; {has})"
    return f"{processor}, {len(os.sched_getaffinity(0))} cores, {memory / 2**30:.0f} GB"


def commit(checkout: Path) -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches/RESULTS.md")
    return f"commit {git('rev-parse', '--short', 'HEAD') or 'unknown'}{' with changes that are not committed' if changed else ''}"


def this_command() -> str:
    """As it was typed; of an absolute path only the name, since the results are for every machine."""
    return "python3 scripts/bench.py " + shlex.join(Path(word).name if word.startswith("/") else word for word in sys.argv[1:])


def circumstances(checkout: Path, versions: str, rounds: int, load: float) -> str:
    """What a part's figures depend on."""
    rounds = f"{rounds} round{'s' * (rounds != 1)}"
    where = f"{time.strftime('%Y-%m-%d')}, {machine()}, {commit(checkout)}, release build, {rounds}, load average before the run {load:.2f}."
    return f"{paragraph(where)}\nCommand: `{this_command().strip()}`\n\n{paragraph(f'Versions: {versions}.')}"


def markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def between(text: str, name: str) -> tuple[int, int] | None:
    """Where the lines between a pair of markers are; None if the pair is not there."""
    begin, end = markers(name)
    counts = text.count(begin), text.count(end)
    if counts == (0, 0):
        return None
    if counts != (1, 1) or text.index(begin) > text.index(end):
        raise BenchError(f"benches/RESULTS.md needs `{begin}` once, and after it `{end}` once; put them right or delete both")
    return text.index(begin) + len(begin), text.index(end)


def updated(text: str, fresh: dict[str, str]) -> str:
    """The results with the parts in `fresh` replaced; a part that was not measured now stays as it is."""
    place = between(text, "bench")
    if place is None:
        begin, end = markers("bench")
        text = f"{text.rstrip()}\n\n{HEADING}\n\n{begin}\n{end}\n"
        place = between(text, "bench")
    old = text[slice(*place)]
    blocks = [METHOD]
    for name in PARTS:
        known = between(old, f"bench:{name}")
        kept = old[slice(*known)].strip() if known else f"### {name.upper() if name == 'http' else name.capitalize()}\n\nNot measured yet."
        begin, end = markers(f"bench:{name}")
        blocks.append(f"{begin}\n{fresh.get(name, kept).strip()}\n{end}")
    return text[: place[0]] + "\n" + "\n\n".join(blocks) + "\n" + text[place[1] :]


def write(results: Path, fresh: dict[str, str]) -> None:
    text = updated(results.read_text(), fresh)
    new = results.with_name(results.name + ".new")
    new.write_text(text)
    new.replace(results)
