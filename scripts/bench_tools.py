"""What `bench.py` measures with: the peer's environment, processes on chosen cores that end with the run, HTTP and wrk."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

# `onnx` only makes the copy of the embedder with a free batch.
PEER_PACKAGES = (
    "fastapi==0.165.0",
    "uvicorn[standard]==0.54.0",
    "python-multipart==0.0.34",
    "onnxruntime==1.32.0",
    "opencv-python-headless==5.0.0.93",
    "numpy==2.4.6",
    "onnx==1.23.2",
)
PEER_PYTHON = (3, 11)  # the oldest that these packages take
PATIENCE = 60  # seconds for a server to start, or to stop
# Would change one side behind the run's back.
FOREIGN = re.compile(r"FACEID_(?!HOME$|POSTGRES_DIR$|WEIGHTS_DIR$)|PEER_|G?OMP_|MKL_|OPENBLAS_|(DATABASE_URL|API_KEY|FIELD|PYTHONPATH)$")


class BenchError(Exception):
    """The run cannot go on; the message says why and what to do."""


def say(message: str) -> None:
    print(f"bench: {message}", file=sys.stderr, flush=True)


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **extra}


def check_tools() -> None:
    missing = {tool: package for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")) if not shutil.which(tool)}
    if missing:
        raise BenchError(f"{' and '.join(missing)} missing: sudo apt-get install {' '.join(missing.values())}")


def peer_python(home: Path) -> Path:
    """The Python of the peer's environment, which is made when it is not there with exactly these versions."""
    if sys.version_info < PEER_PYTHON:
        raise BenchError(f"the peer's packages need Python {'.'.join(map(str, PEER_PYTHON))} or newer; this is {sys.version.split()[0]}")
    folder = home / "peer"
    stamp, python = folder / ".made-by-bench", folder / "bin" / "python"
    wanted = "\n".join([f"python {sys.version_info.major}.{sys.version_info.minor}", *PEER_PACKAGES]) + "\n"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"making the peer's environment in {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command, advice in (
        ([sys.executable, "-m", "venv", str(folder)], "python3 -m venv failed; its words are above (Debian: sudo apt-get install python3-venv)"),
        ([str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *PEER_PACKAGES], "pip failed; its words are above"),
    ):
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment(PIP_REQUIRE_VIRTUALENV="0")).returncode != 0:
            raise BenchError(advice)
    stamp.write_text(wanted)
    return python


def pinned(cores: list[int], command: list) -> list[str]:
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *map(str, command)]


@contextlib.contextmanager
def process(command: list[str], log: Path, **options) -> Iterator[subprocess.Popen]:
    """A process in a group of its own, so that Ctrl-C reaches only the run, which then ends everything in order."""
    with log.open("ab") as output:
        options.setdefault("stdout", output)
        options.setdefault("stdin", subprocess.DEVNULL)
        started = subprocess.Popen(command, stderr=output, start_new_session=True, **options)
    try:
        yield started
    finally:
        try:
            started.terminate()
            started.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            say(f"{log.stem} does not stop; killing it")
        finally:  # also when Ctrl-C comes again
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)  # whoever of the group is left
            started.wait()


def finished(command: list[str], **options) -> str:
    """The output of a command that is waited for."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise BenchError(f"`{' '.join(command)[:200]}` failed with {done.returncode}: {' '.join(said)}")
    return done.stdout


@dataclass
class Server:
    """A server that is up; `layout` tells how it uses its threads."""

    port: int
    layout: str
    # That requests show, if it asks for one.
    key: str | None = None

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def connect(self) -> contextlib.closing[http.client.HTTPConnection]:
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30))

    def ask(self, method: str, path: str, photo: Path | None = None) -> tuple[int, dict]:
        with self.connect() as connection:
            return ask(connection, method, path, photo)


def ask(connection: http.client.HTTPConnection, method: str, path: str, photo: Path | None = None) -> tuple[int, dict]:
    """Status and JSON of an answer; the connection can be asked again."""
    boundary = "----faceid-bench"
    body, headers = None, {}
    if photo:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        body = head.encode() + photo.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read() or b"{}")


@contextlib.contextmanager
def server(command: list[str], port: int, layout: str, ready: str, log: Path, **options) -> Iterator[Server]:
    """Starts a server and waits until it answers the path `ready` with 200."""
    with process(command, log, **options) as started:
        up, deadline = Server(port, layout), time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                if up.ask("GET", ready)[0] == 200:
                    break
            if started.poll() is not None or time.monotonic() > deadline:
                said = " ".join(log.read_text(errors="replace").strip().splitlines()[-5:])
                raise BenchError(f"the server ({layout}) did not start: {said}")
            time.sleep(0.1)
        yield up


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Load:
    """What wrk saw."""

    per_second: float
    p50_ms: float
    failed: int


def wrk(script: Path, photos: list[str], data: Path, at: Server, connections: int, seconds: float, core: list[int], query: str = "") -> Load:
    """Sends the photos, named relative to `data`, in turn; `core` is where wrk runs, empty for anywhere."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "--latency", "-s", script, at.url(f"/identify?top_k=5{query}")]
    command = pinned(core, command) if core else [str(word) for word in command]
    output = finished(command, cwd=data, env=environment(PHOTOS=" ".join(photos), FIELD="image"))
    line = re.search(r"requests ([1-9]\d*)  failed (\d+)  per_second ([\d.]+)  p50_ms ([\d.]+)", output)
    if not line:
        raise BenchError(f"the server ({at.layout}) answered nothing within {seconds:g} s; wrk said: {' '.join(output.split())[-300:]}")
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    failed = int(line[2]) + sum(map(int, broken.groups() if broken else ()))
    return Load(float(line[3]), float(line[4]), failed)


def jpeg_size(path: Path) -> tuple[int, int]:
    """Width and height, as the first frame header of the file has them."""
    data = path.read_bytes()
    at = 2
    while at + 9 < len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 1 if marker == 0xFF else 2 + length
    raise BenchError(f"{path} is no JPEG with a frame header")
