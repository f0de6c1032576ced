#!/usr/bin/env python3
"""POST /identify of a server that notes who asks, against one that does not.

    python3 scripts/bench_audit.py --faceid target/release/faceid [--rounds 30]

Needs the test photos (FACEID_TEST_DATA), both cores, and nothing else that runs. The two servers stand side by side, and each round
measures each once, in an order that turns around from round to round, so that what slows the machine down slows both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Iterator

from artefacts import faceid_home
from bench_batch import CONNECTIONS, form, post, singly, turns
from bench_report import table
from bench_tools import BenchError, Server, environment, free_port, say, server
from doc_pages import CHECKOUT

PHOTOS = 64
EMBEDDINGS = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faceid", type=Path, default=CHECKOUT / "target/release/faceid", help="the program to measure")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    photos = Path(os.environ.get("FACEID_TEST_DATA", CHECKOUT / "../shared/data"))
    chosen = [path.read_bytes() for path in sorted((photos / "lfw100").glob("*/*.jpg"))[:PHOTOS]]
    try:
        if len(chosen) < PHOTOS:
            raise BenchError(f"{photos}/lfw100 has no {PHOTOS} photos (FACEID_TEST_DATA names another folder)")
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faceid-bench-")))
            folder.chmod(0o755)  # a private PostgreSQL of root runs as somebody else
            noting = stack.enter_context(our_server(options.faceid.resolve(), folder / "noting", True))
            silent = stack.enter_context(our_server(options.faceid.resolve(), folder / "silent", False))
            print(compared(noting, silent, chosen, options.rounds), flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def our_server(binary: Path, data: Path, notes: bool) -> Iterator[Server]:
    data.mkdir()
    port = free_port()
    command = [str(part) for part in (binary, "serve", "--bind", f"127.0.0.1:{port}", "--data-dir", data / "data", "--log", "warn")]
    command += ["--audit-answers", str(notes).lower()]
    with server(command, port, data.name, "/readyz", data / "log", env=environment(FACEID_HOME=str(faceid_home()))) as up:
        yield up


def compared(noting: Server, silent: Server, photos: list[bytes], rounds: int) -> str:
    with noting.connect() as connection:
        embedded = post(connection, "/embed", form("image", photos[:1]))["faces"][0]["embedding"]
    numbers = json.dumps({"embedding": embedded}).encode()

    def embeddings(at: Server) -> None:
        with at.connect() as connection:
            for _ in range(EMBEDDINGS):
                post(connection, "/identify/embedding", numbers, "application/json")

    rows = []
    for name, count, work in [
        (f"/identify, {CONNECTIONS} connections", len(photos), lambda at: singly(at, photos, CONNECTIONS)),
        ("/identify, one after the other", len(photos), lambda at: singly(at, photos, 1)),
        ("/identify/embedding, one after the other", EMBEDDINGS, embeddings),
    ]:
        say(f"{name}: {rounds} rounds of {count} requests")
        seconds = turns({"noting": lambda: work(noting), "silent": lambda: work(silent)}, rounds)
        ratios = [with_it / without for with_it, without in zip(seconds["noting"], seconds["silent"])]
        each = [f"{statistics.median(seconds[side]) / count * 1e3:.3f}" for side in ("noting", "silent")]
        rows.append([name, *each, f"{(statistics.median(ratios) - 1) * 100:+.1f} %"])
    return table(["what", "ms a request, noted", "not noted", "more, median of the rounds"], rows)


if __name__ == "__main__":
    sys.exit(main())
