#!/usr/bin/env python3
"""Runs the examples of README.md and docs/, and compares what they print with what the pages show.

    make examples
    python3 scripts/check_examples.py docs/start.md --faceid target/debug/faceid

Each page gets an empty folder with sample photos and a fresh server with an empty database; its blocks run from top to
bottom in one shell. scripts/example_pages.py says which blocks run, scripts/example_compare.py how outputs are compared.
`openapi.yaml` as a page stands for the API's description: its examples, and answers of a server, against its schemas.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from artefacts import LIBRARIES_FOLDER, faceid_home
from doc_pages import CHECKOUT
from example_compare import difference
from example_openapi import check_openapi
from example_pages import Page, Step, read_page
from example_server import SAMPLES, ExampleError, Place, group, place

OPENAPI = "openapi.yaml"
PATIENCE = 600  # seconds for the examples of a page
ADDRESS = re.compile(r"\b(127\.0\.0\.1|localhost):8080\b")
RUNNERS = {"sh": ("sh", "source"), "python": ("py", "python3"), "js": ("mjs", "node")}


@dataclass
class Outcome:
    page: str
    ran: int = 0
    compared: int = 0
    left_out: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main() -> int:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that servers are stopped
    try:
        photos = photo_folder()
        if photos is None:
            return 0
        check_tools(options.faceid)
        print(f"examples run with {options.faceid}", flush=True)
        outcomes = [check_page(name, options.faceid, photos) for name in options.pages or all_pages()]
    except ExampleError as error:
        print(f"examples: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nexamples: stopped", file=sys.stderr)
        return 130
    return report(outcomes)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="pages to check, as paths in the repository (default: all)")
    parser.add_argument(
        "--faceid", type=lambda path: Path(path).absolute(), default=built_binary(), metavar="PATH", help="the program (default: the release build, else the debug build)"
    )
    return parser.parse_args()


def built_binary() -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR") or CHECKOUT / "target")
    release, debug = (target / kind / "faceid" for kind in ("release", "debug"))
    return release if release.exists() else debug


def all_pages() -> list[str]:
    pages = sorted(f"docs/{page.name}" for page in (CHECKOUT / "docs").glob("*.md") if page.name != "SUMMARY.md")
    return ["README.md", *pages, OPENAPI]


def photo_folder() -> Path | None:
    """The test photos. Where there are none, that is said; CI must have them."""
    photos = Path(os.environ.get("FACEID_TEST_DATA") or CHECKOUT.parent / "shared/data")
    if all((photos / source).is_file() for source in SAMPLES.values()):
        return photos
    missing = f"there are no test photos in {photos} (FACEID_TEST_DATA names another folder)"
    if os.environ.get("CI") == "true":
        raise ExampleError(missing)
    print(f"examples of README.md, docs/ and {OPENAPI} were not checked: {missing}")
    return None


def check_tools(binary: Path) -> None:
    if not binary.is_file():
        raise ExampleError(f"there is no {binary}: make build, or name another by --faceid")
    if not LIBRARIES_FOLDER.ready(faceid_home()):
        raise ExampleError("Python's libraries are missing: python3 scripts/setup.py --only libraries")
    missing = [tool for tool in ("bash", "curl", "node") if not shutil.which(tool)]
    if missing:
        raise ExampleError(f"the examples need {' and '.join(missing)}: sudo apt-get install curl nodejs")


def check_page(name: str, binary: Path, photos: Path) -> Outcome:
    started = time.monotonic()
    try:
        outcome = check_description(binary, photos) if name == OPENAPI else check_examples(read_page(name), binary, photos)
    except ExampleError as error:
        outcome = Outcome(name, failures=[f"{name}: {error}"])
    if outcome.ran or outcome.failures:
        verdict = f"{len(outcome.failures)} FAILED" if outcome.failures else "good"
        print(f"{name}: {outcome.ran} run, {outcome.compared} compared, {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
    for failure in outcome.failures:
        print(failure, flush=True)
    return outcome


def check_description(binary: Path, photos: Path) -> Outcome:
    with place(binary, photos) as where, where.server([]):
        ran, failures = check_openapi(where)
    return Outcome(OPENAPI, ran, ran, failures=failures)


def check_examples(page: Page, binary: Path, photos: Path) -> Outcome:
    outcome = Outcome(page.name, left_out=[f"{page.name}:{line}: {reason}" for line, reason in page.left_out])
    outcome.failures += [f"{page.name}:{line}: {problem}" for line, problem in page.problems]
    if not page.shown:
        return outcome
    with place(binary, photos) as where, where.server(page.server):
        ran, failure = run(page, where)
        outcome.failures += compare(page, where, ran, outcome)
        outcome.failures += [failure] if failure else []
    return outcome


def run(page: Page, where: Place) -> tuple[int, str | None]:
    """How many steps ran to their end, and what stopped them."""
    script = where.folder / "script"
    script.write_text("\n".join([
        "set -eu",
        f"trap 'echo $LINENO > {where.steps}/failed' ERR",
        *(prepare(step, number, where) for number, step in enumerate(page.steps)),
    ]))
    with group(["bash", str(script)], cwd=where.work, env=where.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as shell:
        try:
            shell.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
    ran = len(list(where.steps.glob("*.done")))
    return ran, None if ran == len(page.steps) else failure(page, ran, shell.returncode, where)


def prepare(step: Step, number: int, where: Place) -> str:
    """Writes a step down as a file; returns the line of the script that runs it."""
    ending, runner = RUNNERS[step.language]
    file = where.steps / f"{number}.{ending}"
    file.write_text(ADDRESS.sub(f"127.0.0.1:{where.port}", step.code) + "\n", encoding="utf-8")
    output = where.steps / str(number)
    return f"{runner} {file} < /dev/null > {output}.out 2> {output}.err; touch {output}.done"


def failure(page: Page, number: int, code: int | None, where: Place) -> str:
    step = page.steps[number]
    failed = where.steps / "failed"
    line = int(failed.read_text()) if step.language == "sh" and failed.exists() else 1
    line = line if line <= step.code.count("\n") + 1 else 1
    why = f"ended with {code}" if code is not None and code >= 0 else f"was not done after {PATIENCE} s"
    text = [f"{page.name}:{step.line + line - 1}: the command {why}, and {len(page.steps) - number - 1} blocks after it did not run"]
    text += ["    " + part for part in step.code.split("\n")[line - 1 :][:6]]
    for kind in ("out", "err"):
        said = printed(where, number, kind).splitlines()[-15:]
        text += [f"  it printed ({kind}):", *("    " + part for part in said)] if said else []
    return "\n".join(text)


def compare(page: Page, where: Place, ran: int, outcome: Outcome) -> list[str]:
    failures = []
    for number, step in enumerate(page.steps[:ran]):
        outcome.ran += step.shown
        if not step.output:
            continue
        outcome.compared += 1
        out, err = (printed(where, number, kind) for kind in ("out", "err"))
        found = [difference(step.output.text, step.output.language, text) for text in {out: 0, out + err: 0, err + out: 0}]
        if all(found):
            text = [f"{page.name}:{step.output.line}: the block at line {step.line} prints something else:"]
            text += ["    " + line for line in step.code.split("\n")[:6]]
            failures.append("\n".join(text + ["  " + line for line in found[0].split("\n")]))
    return failures


def printed(where: Place, number: int, kind: str) -> str:
    file = where.steps / f"{number}.{kind}"
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    return text.replace(f":{where.port}", ":8080")


def report(outcomes: list[Outcome]) -> int:
    left_out = [line for outcome in outcomes for line in outcome.left_out]
    if left_out:
        print(f"\nnot run, with the reason that the page gives ({len(left_out)}):")
        print("\n".join(f"  {line}" for line in left_out))
    idle = [outcome.page for outcome in outcomes if not outcome.ran]
    if idle:
        print(f"\npages in which nothing ran: {', '.join(idle)}")
    ran, compared, failed = (sum(counts) for counts in zip(*((o.ran, o.compared, len(o.failures)) for o in outcomes)))
    print(f"\nexamples: {ran} run, {compared} compared, {len(left_out)} not run, {failed} failed, in {len(outcomes)} pages")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
