#!/usr/bin/env python3
"""Measures faceid beside the reference peer (FastAPI, ONNX Runtime, OpenCV) with the same weights, photos and cores, and
writes the tables into benches/RESULTS.md. Two parts: the networks alone, and POST /identify over loopback.

It takes about 20 minutes, and figures mean something only when nothing else runs. Stop it with Ctrl-C; every part that was
finished is written.

What you set is respected: FACEID_BENCH_DIR (the peer, default ../shared/bench beside the checkout), FACEID_TEST_DATA (the
photos, default ../shared/data), FACEID_WEIGHTS_DIR, FACEID_HOME (the peer's packages go to its folder `peer`) and
CARGO_TARGET_DIR.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bench_http
import bench_networks
import bench_report
from bench_tools import BenchError, check_tools, environment, finished, peer_python, say

CHECKOUT = Path(__file__).resolve().parent.parent
RESULTS = CHECKOUT / "benches" / "RESULTS.md"
IDLE = 0.5  # a load average above it says that something else runs


@dataclass(frozen=True)
class Bench:
    """What every part needs to know."""

    python: Path  # with the peer's packages
    peer: Path  # folder of the peer
    data: Path  # folder of the photos
    binary: Path
    detector: Path
    embedder: Path
    temporary: Path
    rounds: int
    network_seconds: float
    http_seconds: float

    def faceid_environment(self) -> dict[str, str]:
        return environment(FACEID_WEIGHTS_DIR=str(self.embedder.parent))


def main() -> int:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory(prefix="faceid-bench-") as temporary:
            Path(temporary).chmod(0o755)  # the private Postgres runs as another user when the server runs as root
            bench = prepare(options, Path(temporary))
            if load > IDLE:
                say(f"the load average is {load:.2f}: something else runs, and the figures will suffer")
            measure(bench, options, load)
    except BenchError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        say("stopped")
        return 130
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: scripts/bench.py --only networks --threads 1", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", default="1,2", help="thread counts to measure (default: 1,2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of peer and faceid in turn (default: 5)")
    parser.add_argument("--duration", type=float, default=8, metavar="SECONDS", help="of each HTTP run (default: 8)")
    parser.add_argument("--only", choices=bench_report.PARTS, help="measure one part; the other's tables stay")
    parser.add_argument("--binary", type=Path, help="the faceid to measure (default: that of the release build)")
    parser.add_argument("--quick", action="store_true", help="one short round to try things out; printed, not written")
    options = parser.parse_args()
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", options.threads):
        parser.error("--threads takes numbers with commas between, such as 1,2")
    options.threads = list(dict.fromkeys(map(int, options.threads.split(","))))
    if options.rounds < 1 or options.duration < 1:
        parser.error("--rounds and --duration are at least 1")
    if options.quick:
        options.rounds, options.duration = 1, 2
    return options


def prepare(options: argparse.Namespace, temporary: Path) -> Bench:
    check_tools()
    cores = len(os.sched_getaffinity(0))
    if max(options.threads) > cores:
        raise BenchError(f"{max(options.threads)} threads need as many cores; there are {cores}: choose fewer with --threads")
    target = CHECKOUT / (os.environ.get("CARGO_TARGET_DIR") or "target")
    binary = (options.binary or target / "release" / "faceid").absolute()
    peer = folder("FACEID_BENCH_DIR", CHECKOUT.parent / "shared" / "bench", ["peer_ort_server.py", "post.lua"])
    data = folder("FACEID_TEST_DATA", CHECKOUT.parent / "shared" / "data", ["lfw100", "scenes"])
    detector, embedder = "retinaface-mobilenet0.25.onnx", "mobilefacenet-512.onnx"
    weights = folder("FACEID_WEIGHTS_DIR", CHECKOUT / ".deps" / "weights", [detector, embedder], "; `make setup` brings them")
    if not os.access(binary, os.X_OK):
        raise BenchError(f"{binary} is no program; build it with `make build`, or name one with --binary")
    if subprocess.run([binary, "bench", "--help"], stdin=subprocess.DEVNULL, capture_output=True).returncode != 0:
        raise BenchError(f"{binary} has no command `bench`; build it anew with `make build`")
    home = Path(os.environ.get("FACEID_HOME") or "~/.cache/faceid").expanduser().absolute()
    python = peer_python(home)
    seconds = 1 if options.quick else 2
    return Bench(python, peer, data, binary, weights / detector, weights / embedder, temporary, options.rounds, seconds, options.duration)


def folder(variable: str, default: Path, holds: list[str], advice: str = "") -> Path:
    path = Path(os.environ.get(variable) or default).expanduser().absolute()
    for name in holds:
        if not (path / name).exists():
            raise BenchError(f"{path / name} is missing; {variable} names its folder{advice}")
    return path


def measure(bench: Bench, options: argparse.Namespace, load: float) -> None:
    versions = ", ".join(versions_of(bench))
    about = bench_report.circumstances(CHECKOUT, versions, bench.rounds, load)
    for name, part in (("networks", bench_networks), ("http", bench_http)):
        if options.only not in (None, name):
            continue
        text = part.measure(bench, options.threads, about)
        print(text, flush=True)
        if not options.quick:
            bench_report.write(RESULTS, {name: text})
            say(f"wrote the part {name} of {RESULTS.relative_to(CHECKOUT)}")


def versions_of(bench: Bench) -> list[str]:
    ask = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in ('onnxruntime', 'opencv-python-headless', 'numpy', 'fastapi', 'uvicorn')), sep='\\n')"
    packages = finished([str(bench.python), "-c", ask], env=environment()).splitlines()
    faceid = finished([str(bench.binary), "--version"], env=environment()).strip()
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.split()  # its exit status is 1
    return [faceid, *packages, f"Python {sys.version.split()[0]}", f"wrk {wrk[1] if len(wrk) > 1 else 'of unknown version'}"]


if __name__ == "__main__":
    sys.exit(main())
