#!/usr/bin/env python3
"""POST /identify of a server with keys, limits and the audit, against one that is open and notes no questions.

    python3 scripts/bench_guard.py --faceid target/release/faceid [--rounds 30]

Needs the test photos (FACEID_TEST_DATA), both cores, and nothing else that runs. Three servers stand side by side, `open`, `noting`
(open, but it notes who asks) and `guarded` (it notes, asks for keys of the database, and counts requests and pixels of each key), and
each round measures each once, in an order that turns around from round to round, so that what slows the machine down slows all.
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
KINDS = ("open", "noting", "guarded")


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
            servers = {
                kind: stack.enter_context(our_server(options.faceid.resolve(), folder / kind, kind)) for kind in KINDS
            }
            print(compared(servers, chosen, options.rounds), flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def our_server(binary: Path, data: Path, kind: str) -> Iterator[Server]:
    data.mkdir()
    port = free_port()
    command = [str(part) for part in (binary, "serve", "--bind", f"127.0.0.1:{port}", "--data-dir", data / "data", "--log", "warn")]
    command += ["--audit-answers", str(kind != "open").lower()]
    if kind == "guarded":
        # More than can be asked for: what is measured is the counting.
        command += ["--requests-per-second", "100000", "--megapixels-per-second", "100000", "--concurrent-requests", "1000"]
    with server(command, port, data.name, "/readyz", data / "log", env=environment(FACEID_HOME=str(faceid_home()))) as up:
        if kind == "guarded":
            with up.connect() as connection:
                key = post(connection, "/admin/keys", b'{"name": "boss", "role": "owner"}', "application/json")["key"]
                post(connection, "/galleries", b'{"name": "staff"}', "application/json", key)
                door = b'{"name": "door", "role": "enrol", "galleries": ["default"]}'
                up.key = post(connection, "/admin/keys", door, "application/json", key)["key"]
        yield up


def compared(servers: dict[str, Server], photos: list[bytes], rounds: int) -> str:
    for at in servers.values():
        with at.connect() as connection:
            for number, photo in enumerate(photos[::8]):
                path = f"/enroll?subject=p{number}&face=largest&on_duplicate=allow&quality=any"
                post(connection, path, form("image", [photo]), key=at.key)
    with servers["open"].connect() as connection:
        embedded = post(connection, "/embed", form("image", photos[:1]))["faces"][0]["embedding"]
    numbers = json.dumps({"embedding": embedded}).encode()

    def embeddings(at: Server) -> None:
        with at.connect() as connection:
            for _ in range(EMBEDDINGS):
                post(connection, "/identify/embedding", numbers, "application/json", key=at.key)

    rows = []
    for name, count, work in [
        (f"/identify, {CONNECTIONS} connections", len(photos), lambda at: singly(at, photos, CONNECTIONS)),
        ("/identify, one after the other", len(photos), lambda at: singly(at, photos, 1)),
        ("/identify/embedding, one after the other", EMBEDDINGS, embeddings),
    ]:
        say(f"{name}: {rounds} rounds of {count} requests")
        seconds = turns({kind: lambda at=at: work(at) for kind, at in servers.items()}, rounds)
        each = [f"{statistics.median(seconds[kind]) / count * 1e3:.3f}" for kind in KINDS]
        more = [
            f"{(statistics.median([with_it / without for with_it, without in zip(seconds[kind], seconds['open'])]) - 1) * 100:+.1f} %"
            for kind in KINDS[1:]
        ]
        rows.append([name, *each, *more])
    heads = [f"ms a request, {kind}" for kind in KINDS] + [f"{kind}: more, median of the rounds" for kind in KINDS[1:]]
    return table(["what", *heads], rows)


if __name__ == "__main__":
    sys.exit(main())
