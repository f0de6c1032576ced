"""A folder with sample photos and a server of its own, for the examples of one page. Nothing of it is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from artefacts import LIBRARIES_FOLDER, faceid_home
from doc_pages import CHECKOUT

PATIENCE = 120  # seconds until the server must be ready
# What the pages call them, and which of the test photos they are. The group is five people, none of them Ada or Bob.
SAMPLES = {
    "ada.jpg": "scenes/007_B.jpg",
    "ada-2.jpg": "scenes/008_B.jpg",
    "bob.jpg": "scenes/009_C.jpg",
    "group.jpg": "scenes/000_5.jpg",
}
PEOPLE, PHOTOS_EACH = "lfw100", 5  # the source of people/, and how many photos of each person are taken
IMAGES = "docs/images"  # README enrolls photos of the repository
# Nothing of what is set around the check may change what an example does, but where the networks and PostgreSQL are.
KEPT = ("FACEID_WEIGHTS_DIR", "FACEID_POSTGRES_DIR")
SETTINGS = ("FACEID_", "DATABASE_URL", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PYTHON")

# A command that is not told of the server would make a database where the user has theirs. Printed settings are as set.
WRAPPER = """#!/bin/sh
case " $* " in *" --print-config "*) ;; *) export FACEID_DATA_DIR="${{FACEID_DATA_DIR:-{data}}}" ;; esac
exec '{binary}' "$@"
"""


class ExampleError(Exception):
    """The examples cannot be run; the message says why."""


class Place:
    """Where the examples of a page run."""

    def __init__(self, folder: Path, binary: Path, photos: Path):
        self.folder, self.binary = folder, binary.resolve()  # what runs here has another working folder
        self.work, self.steps, self.programs, self.home = (folder / name for name in ("work", "steps", "bin", "home"))
        for made in (self.work, self.steps, self.programs, self.home):
            made.mkdir()
        (self.programs / "faceid").write_text(WRAPPER.format(binary=self.binary, data=self.home / "data"))
        (self.programs / "faceid").chmod(0o755)
        (self.programs / "python3").symlink_to(Path(sys.executable).resolve())
        copy_samples(photos, self.work)
        self.port = free_port()

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(SETTINGS)}
        ours = {"HOME": self.home, "PATH": f"{self.programs}:{os.environ['PATH']}", "PYTHONPATH": faceid_home() / LIBRARIES_FOLDER.name}
        ours["FACEID_HOME"] = faceid_home()
        ours.update({"TZ": "UTC", "LC_ALL": "C.UTF-8", "TERM": "dumb"})
        return {**kept, **{name: str(value) for name, value in ours.items()}}

    @contextlib.contextmanager
    def server(self, flags: list[str]):
        log = self.folder / "server.log"
        environment = {**self.environment, "FACEID_SHUTDOWN_GRACE": "0"}  # nobody else is to notice
        command = [self.binary, "serve", "--bind", f"127.0.0.1:{self.port}", "--data-dir", self.folder / "data", *flags]
        with log.open("w") as output:
            with group([str(part) for part in command], cwd=self.home, env=environment, stdout=output, stderr=output) as process:
                self.wait(process, log)
                yield

    def wait(self, process: subprocess.Popen, log: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with opener().open(f"http://127.0.0.1:{self.port}/readyz", timeout=10):
                    return
            except OSError:
                time.sleep(0.1)
        why = "does not become ready" if process.poll() is None else f"ended with {process.returncode}"
        raise ExampleError(f"the server {why}; its last words:\n" + "\n".join(log.read_text().splitlines()[-20:]))


def opener() -> urllib.request.OpenerDirector:
    """Without the proxies of the environment, which do not lead to this machine."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def place(binary: Path, photos: Path):
    folder = Path(tempfile.mkdtemp(prefix="faceid-examples-"))
    try:
        folder.chmod(0o755)  # a private PostgreSQL of root runs as somebody else
        yield Place(folder, binary, photos)
    finally:
        with undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def group(command: list[str], **settings):
    """A process that is ended with all that it started, whatever happens."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **settings)
    try:
        yield process
    finally:
        with undisturbed():
            end(process)


@contextlib.contextmanager
def undisturbed():
    """A second Ctrl-C does not stop the tidying up after the first."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end(process: subprocess.Popen) -> None:
    """Kindly first: a server stops its PostgreSQL, which a dead one cannot."""
    for kind, patience in ((signal.SIGTERM, 60), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        deadline = time.monotonic() + patience
        while process.poll() is None or group_lives(process.pid):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return


def group_lives(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def copy_samples(photos: Path, work: Path) -> None:
    for name, source in SAMPLES.items():
        shutil.copyfile(photos / source, work / name)
    for person in sorted(path for path in (photos / PEOPLE).iterdir() if path.is_dir()):
        (work / "people" / person.name).mkdir(parents=True)
        for photo in sorted(person.glob("*.jpg"))[:PHOTOS_EACH]:
            shutil.copyfile(photo, work / "people" / person.name / photo.name)
    shutil.copytree(CHECKOUT / IMAGES, work / IMAGES)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
