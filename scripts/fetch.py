"""Fetches archives through pip and npm: verified by sha256, continued where a stopped run left off.

A wheel is found and downloaded by pip's own code, with the user's index, proxy, certificates and credentials. pip's
command line cannot continue a stopped download, and its `--report` downloads the whole wheel to name its address, so pip
is used as a library here: asked for the address, and its session for the missing bytes. pip promises no stable library;
where that fails, `pip download` does the work, only without continuing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from artefacts import WHEEL_PYTHON, Archive, SetupError

CHUNK = 1 << 18  # bytes
# Tries that bring no new byte, before giving up.
PATIENCE = 5
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def say(message: str) -> None:
    print(f"setup: {message}", file=sys.stderr, flush=True)


def megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


class Progress:
    """A bar on a terminal, else a line now and then."""

    INTERVAL = {True: 0.1, False: 10.0}  # seconds between drawings, on a terminal or not

    def __init__(self, label: str, done: int, total: int):
        self.label, self.total, self.first = label, total, done
        self.started = self.drawn = time.monotonic()
        self.tty = sys.stderr.isatty()

    def update(self, done: int) -> None:
        now, last = time.monotonic(), done >= self.total
        if now - self.drawn < self.INTERVAL[self.tty] and not last:
            return
        self.drawn = now
        rate = max(done - self.first, 1) / max(now - self.started, 1e-3)
        left = round(max(self.total - done, 0) / rate)
        figures = f"{done / 1e6:.0f}/{self.total / 1e6:.0f} MB  {rate / 1e6:.1f} MB/s"
        figures += "" if last else f"  {left // 60}:{left % 60:02d} left"
        if self.tty:
            filled = min(24, done * 24 // self.total)
            line = f"  {self.label} [{'#' * filled}{'.' * (24 - filled)}] {figures}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{line[:width]}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            say(f"{self.label}: {figures}")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(archive: Archive, downloads: Path, lock_fd: int) -> Path:
    """The verified archive below `downloads`; one that fails its sha256 is deleted and fetched again, once."""
    path = downloads / archive.filename
    for _ in range(2):
        if not path.exists():
            (fetch_wheel if archive.client == "pip" else fetch_tarball)(archive, path, lock_fd)
        found = sha256_of(path)
        if found == archive.sha256:
            return path
        path.unlink()
        say(f"{path.name} is corrupted (sha256 {found}, pinned is {archive.sha256}); deleted it")
    raise SetupError(f"{archive.package} {archive.version} came twice with a wrong sha256: not the pinned file, or a broken line")


def fetch_wheel(archive: Archive, path: Path, lock_fd: int) -> None:
    part = path.with_name(path.name + ".part")
    try:
        session, url = locate_wheel(archive)
        continue_download(session, url, archive, part)
    except Exception as error:  # whatever a foreign pip does, its command line is still there
        if getattr(error, "errno", None) in DISK_FULL:
            raise SetupError(f"no space left for {part}; free some and run set-up again to go on") from error
        say(f"{archive.package}: cannot continue downloads through this pip ({type(error).__name__}: {error}); using `pip download`")
        pip_download(archive, part, lock_fd)
    part.replace(path)


def pip_options(archive: Archive) -> list[str]:
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={WHEEL_PYTHON}", "--no-cache-dir"]
    return options + ([] if archive.platform == "any" else [f"--platform={archive.platform}"])


def locate_wheel(archive: Archive):
    """pip's network session and the wheel's address, as `pip download` would choose it."""
    from pip._internal.cli.cmdoptions import make_target_python
    from pip._internal.commands import create_command
    from pip._internal.utils.hashes import Hashes
    from pip._vendor.packaging.specifiers import SpecifierSet

    command = create_command("download")
    options, _ = command.parse_args(pip_options(archive) + [archive.package])
    session = command._build_session(options)
    finder = command._build_package_finder(options, session, target_python=make_target_python(options), ignore_requires_python=True)
    wanted = SpecifierSet(f"=={archive.version}"), Hashes({"sha256": [archive.sha256]})
    best = finder.find_best_candidate(archive.package, *wanted).best_candidate
    if best is None:
        raise SetupError(f"the index has no {archive.package} {archive.version} for {archive.platform}")
    return session, best.link.url_without_fragment


def continue_download(session, url: str, archive: Archive, part: Path) -> None:
    """Appends what `part` lacks, trying again after an interruption as long as bytes come."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if before == archive.size:
            return
        try:
            append_missing(session, url, archive, part)
            continue
        except OSError as error:  # the network's errors are OSErrors in pip's session
            if error.errno in DISK_FULL:
                raise
            moved = part.exists() and part.stat().st_size > before
            failures = 1 if moved else failures + 1
            if failures >= PATIENCE:
                raise
            say(f"{archive.package}: interrupted ({error}); trying again")
            time.sleep(2 ** (failures - 1))


def append_missing(session, url: str, archive: Archive, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with session.get(url, headers=headers, stream=True) as response:
        if response.status_code == 416:  # longer than the real file, so not a beginning of it
            part.unlink()
            return
        if response.status_code >= 500:
            raise OSError(f"the index answers {response.status_code}")
        if response.status_code >= 400:
            raise SetupError(f"the index answers {response.status_code}")
        continued = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have:
            say(f"{archive.package}: continuing at {megabytes(have)}" if continued else f"{archive.package}: the index cannot continue, starting over")
        done = have if continued else 0
        progress = Progress(f"{archive.package} {archive.version}", done, archive.size)
        with part.open("ab" if continued else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress.update(done)
    if done < archive.size:
        raise OSError(f"the connection ended after {megabytes(done)} of {megabytes(archive.size)}")
    if done > archive.size:
        part.unlink()
        raise SetupError(f"the index sent more than the {archive.size} bytes of the pinned {archive.package}")


def pip_download(archive: Archive, destination: Path, lock_fd: int) -> None:
    folder = destination.with_name(destination.name + ".pip")
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *pip_options(archive), f"--dest={folder}", f"{archive.package}=={archive.version}"]
    run_client(command, archive, lock_fd)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SetupError(f"pip said that it fetched {archive.package} {archive.version}, but left {len(wheels)} wheels")
    wheels[0].replace(destination)
    shutil.rmtree(folder)


def fetch_tarball(archive: Archive, path: Path, lock_fd: int) -> None:
    folder = path.with_name(path.name + ".npm")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    say(f"{archive.package} {archive.version}: {megabytes(archive.size)} by npm")
    run_client(["npm", "pack", "--loglevel=error", f"--pack-destination={folder}", f"{archive.package}@{archive.version}"], archive, lock_fd)
    tarballs = list(folder.glob("*.tgz"))
    if len(tarballs) != 1:
        raise SetupError(f"npm said that it fetched {archive.package} {archive.version}, but left {len(tarballs)} tarballs")
    tarballs[0].replace(path)
    shutil.rmtree(folder)


def run_client(command: list[str], archive: Archive, lock_fd: int) -> None:
    """Runs pip or npm. It holds the lock as well, so a set-up that is killed does not leave a client to disturb the next."""
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    output = subprocess.DEVNULL if archive.client == "npm" else sys.stderr  # npm only names the file there
    code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, env=environment, pass_fds=[lock_fd]).returncode
    if code != 0:
        raise SetupError(f"{command[0] if archive.client == 'npm' else 'pip'} could not fetch {archive.package} {archive.version} (its words are above); run set-up again to go on")
