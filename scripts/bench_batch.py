#!/usr/bin/env python3
"""POST /identify/batch against the same photos one by one; and POST /identify of this program against that of an earlier one.

    python3 scripts/bench_batch.py --faceid target/release/faceid [--before PROGRAM] [--rounds 30]

Needs the test photos (FACEID_TEST_DATA), both cores, and nothing else that runs. Each round measures every side once, in an order that
turns around from round to round, so that what slows the machine down slows all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator

from artefacts import faceid_home
from bench_report import table
from bench_tools import BenchError, Server, environment, free_port, say, server
from doc_pages import CHECKOUT

BATCH = 64
CONNECTIONS = 8
BOUNDARY = "----faceid-bench"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faceid", type=Path, default=CHECKOUT / "target/release/faceid", help="the program to measure")
    parser.add_argument("--before", type=Path, help="an earlier one")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    photos = Path(os.environ.get("FACEID_TEST_DATA", CHECKOUT / "../shared/data"))
    chosen = [path.read_bytes() for path in sorted((photos / "lfw100").glob("*/*.jpg"))[:BATCH]]
    try:
        if len(chosen) < BATCH:
            raise BenchError(f"{photos}/lfw100 has no {BATCH} photos (FACEID_TEST_DATA names another folder)")
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faceid-bench-")))
            folder.chmod(0o755)  # a private PostgreSQL of root runs as somebody else
            now = stack.enter_context(our_server(options.faceid.resolve(), folder / "now"))
            print(batches(now, chosen, options.rounds), flush=True)
            if options.before:
                before = stack.enter_context(our_server(options.before.resolve(), folder / "before"))
                print(versions(now, before, chosen, options.rounds), flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def our_server(binary: Path, data: Path) -> Iterator[Server]:
    data.mkdir()
    port = free_port()
    command = [str(part) for part in (binary, "serve", "--bind", f"127.0.0.1:{port}", "--data-dir", data / "data", "--log", "warn")]
    with server(command, port, binary.name, "/readyz", data / "log", env=environment(FACEID_HOME=str(faceid_home()))) as up:
        yield up


def form(name: str, files: list[bytes]) -> bytes:
    parts = b""
    for content in files:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        parts += head.encode() + content + b"\r\n"
    return parts + f"--{BOUNDARY}--\r\n".encode()


FORM = f"multipart/form-data; boundary={BOUNDARY}"


def post(connection: http.client.HTTPConnection, path: str, body: bytes, media: str = FORM, key: str | None = None) -> dict:
    connection.request("POST", path, body, {"Content-Type": media} | ({"x-api-key": key} if key else {}))
    answer = connection.getresponse()
    said = answer.read()
    if answer.status not in (200, 201):
        raise BenchError(f"{path} answered {answer.status}: {said[:200]!r}")
    return json.loads(said)


def singly(at: Server, photos: list[bytes], connections: int) -> list[int]:
    """Faces of each photo."""
    bodies = [form("image", [photo]) for photo in photos]

    def some(part: list[bytes]) -> list[int]:
        with at.connect() as connection:
            return [len(post(connection, "/identify", body, key=at.key)["faces"]) for body in part]

    with ThreadPoolExecutor(connections) as clients:
        parts = list(clients.map(some, [bodies[first::connections] for first in range(connections)]))
    return [parts[number % connections][number // connections] for number in range(len(photos))]


def together(at: Server, photos: list[bytes]) -> list[int]:
    with at.connect() as connection:
        return [len(result["answer"]["faces"]) for result in post(connection, "/identify/batch", form("images", photos))["results"]]


def taken(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def turns(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for work in sides.values():  # warms up
        work()
    for turn in range(rounds):
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            seconds[name].append(taken(sides[name]))
    return seconds


def batches(at: Server, photos: list[bytes], rounds: int) -> str:
    faces = singly(at, photos, CONNECTIONS)
    if together(at, photos) != faces:
        raise BenchError("a batch finds other faces than single requests do")
    say(f"{rounds} rounds of {len(photos)} photos with {sum(faces)} faces")
    several = f"{BATCH} requests over {CONNECTIONS} connections"
    sides = {
        "one batch": lambda: together(at, photos),
        several: lambda: singly(at, photos, CONNECTIONS),
        f"{BATCH} requests, one after the other": lambda: singly(at, photos, 1),
    }
    seconds = turns(sides, rounds)
    rows = []
    for name, measured in seconds.items():
        ratios = [other / batch for batch, other in zip(seconds["one batch"], measured)]
        rows.append([name, f"{sum(faces) / statistics.median(measured):.1f}", f"{statistics.median(ratios):.2f}x"])
    return table(["what", "faces/s", "the batch against it, median of the rounds"], rows)


def versions(now: Server, before: Server, photos: list[bytes], rounds: int) -> str:
    with now.connect() as connection:
        embedded = post(connection, "/embed", form("image", photos[:1]))["faces"][0]["embedding"]
    numbers = json.dumps({"embedding": embedded}).encode()

    def embeddings(at: Server) -> None:
        with at.connect() as connection:
            for _ in range(500):
                post(connection, "/identify/embedding", numbers, "application/json")

    for at in (now, before):
        with at.connect() as connection:
            for number, photo in enumerate(photos[::8]):
                post(connection, f"/enroll?subject=person%20{number}&face=largest&on_duplicate=allow", form("image", [photo]))
    rows = []
    for name, work, count in (
        (f"/identify, {CONNECTIONS} connections", lambda at: singly(at, photos, CONNECTIONS), len(photos)),
        ("/identify/embedding, one connection", embeddings, 500),
    ):
        say(f"{name}: {rounds} rounds")
        seconds = turns({"now": lambda: work(now), "before": lambda: work(before)}, rounds)
        ratios = sorted(after / earlier for after, earlier in zip(seconds["now"], seconds["before"]))
        quarter = len(ratios) // 4
        spread = f"{ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}"
        rows.append([name, *(f"{count / statistics.median(seconds[side]):.1f}" for side in ("before", "now")), f"{statistics.median(ratios):.3f}", spread])
    return table(["what", "before, requests/s", "now, requests/s", "time now / before, median of the rounds", "half of them"], rows)


if __name__ == "__main__":
    sys.exit(main())
