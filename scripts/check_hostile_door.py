#!/usr/bin/env python3
"""What people without a key do to those with one: /identify requests a second while others hammer /readyz, and how long
/healthz takes behind connections that say nothing. Starts the given binary on a data directory of its own; takes about a minute.

Needs `wrk` (the Debian package) and a photo: one of lfw100 in FACEID_TEST_DATA (default ../shared/data beside the checkout), or
the one that --photo names.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
CLIENTS = 16  # connections that identify
HAMMERS = (0, 64, 128)  # connections on /readyz
SILENT = 512
START = 60  # seconds
POST_PHOTO = """
local file = io.open("{photo}", "rb")
wrk.method, wrk.body = "POST", file:read("*all")
wrk.headers["content-type"] = "image/jpeg"
"""


def main() -> int:
    options = parse_arguments()
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: sudo apt-get install wrk")
    photo = options.photo or some_photo()
    with tempfile.TemporaryDirectory(prefix="faceid-door-") as folder:
        Path(folder).chmod(0o755)  # Postgres may run as another user
        script = Path(folder) / "identify.lua"
        script.write_text(POST_PHOTO.format(photo=photo), encoding="utf-8")
        port = free_port()
        with server(options.binary, Path(folder) / "data", port):
            print("| what | figure |\n| --- | --- |", flush=True)
            for hammers in HAMMERS:
                rate = identified(port, script, hammers, options.seconds)
                print(f"| /identify, requests/s, {hammers} connections on /readyz | {rate:.0f} |", flush=True)
            print(f"| /healthz behind {SILENT} silent connections, s | {behind_silence(port):.2f} |", flush=True)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, help="the faceid to check, such as target/release/faceid")
    parser.add_argument("--photo", type=Path, help="a JPEG to identify")
    parser.add_argument("--seconds", type=int, default=6, help="how long each rate is measured (default: 6)")
    return parser.parse_args()


def some_photo() -> Path:
    data = Path(os.environ.get("FACEID_TEST_DATA") or CHECKOUT.parent / "shared" / "data")
    photos = sorted((data / "lfw100").glob("*/*.jpg"))
    if not photos:
        sys.exit(f"there is no photo in {data / 'lfw100'}; name one with --photo")
    return photos[0]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def server(binary: Path, data: Path, port: int):
    # Without keys, and whatever else the environment says of servers.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FACEID_") and name != "DATABASE_URL"}
    for kept in ("FACEID_HOME", "FACEID_WEIGHTS_DIR", "FACEID_POSTGRES_DIR"):
        if kept in os.environ:
            environment[kept] = os.environ[kept]
    command = [str(binary.absolute()), "serve", "--bind", f"127.0.0.1:{port}", "--data-dir", str(data), "--log", "error"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        until_ready(port, process)
        yield
    finally:
        process.terminate()
        process.wait(timeout=START)


def until_ready(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    sys.exit("the server did not become ready")


def wrk(port: int, path: str, connections: int, seconds: int, *options: str) -> subprocess.Popen:
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--timeout", "30s", *options]
    return subprocess.Popen([*command, f"http://127.0.0.1:{port}{path}"], stdout=subprocess.PIPE, text=True)


def identified(port: int, script: Path, hammers: int, seconds: int) -> float:
    """Requests a second that are answered with success."""
    hammer = wrk(port, "/readyz", hammers, seconds + 2) if hammers else None
    time.sleep(1)  # until they are at it
    report, _ = wrk(port, "/identify", CLIENTS, seconds, "--script", str(script)).communicate()
    if hammer:
        hammer.communicate()
    total = re.search(r"(\d+) requests in ([\d.]+)(s|m)", report)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    answered = int(total[1]) - (int(failed[1]) if failed else 0)
    return answered / (float(total[2]) * (60 if total[3] == "m" else 1))


def behind_silence(port: int) -> float:
    """Seconds until /healthz answers when others have opened all the connections that a server takes by default."""
    with contextlib.ExitStack() as silent:
        for _ in range(SILENT):
            silent.enter_context(socket.create_connection(("127.0.0.1", port), timeout=START))
        time.sleep(0.5)  # until they are accepted
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=START) as answer:
            answer.read()
        return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
