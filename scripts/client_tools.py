"""What the checks of clients have in common: the packages that lock files name, and photos to work with."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from artefacts import faceid_home
from doc_pages import CHECKOUT
from example_server import ExampleError

CLIENTS = CHECKOUT / "tests/clients"


def run_check(description: str, check: Callable[[Path, Path], None]) -> int:
    """Runs a check with the program that the command line names and the test photos; says how the script is to end."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--faceid", type=Path, default=CHECKOUT / "target/debug/faceid", help="the program to check")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that servers are stopped
    photos = Path(os.environ.get("FACEID_TEST_DATA", CHECKOUT / "../shared/data"))
    if not photos.is_dir():
        print(f"clients: there is no {photos} (FACEID_TEST_DATA names another folder)", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    try:
        check(options.faceid, photos.resolve())
    except (ExampleError, subprocess.CalledProcessError) as error:
        print(f"clients: {error}", file=sys.stderr)
        return 1
    return 0


def python_packages(name: str, lock: Path) -> Path:
    """The folder with the Python packages of a lock file, at the hashes that it names."""
    folder, there = packages_folder(f"{name}{sys.version_info.major}{sys.version_info.minor}", lock)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", lock, "--target"]
    return folder if there else made(folder, lambda into: run([*install, into]))


def node_packages(name: str, sources: Path) -> Path:
    """The folder whose `node_modules` has the packages of the lock file in `sources`."""
    folder, there = packages_folder(name, sources / "package-lock.json")

    def install(into: Path) -> None:
        for file in ("package.json", "package-lock.json"):
            shutil.copyfile(sources / file, into / file)
        run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=into)

    return folder if there else made(folder, install)


def packages_folder(name: str, lock: Path) -> tuple[Path, bool]:
    """Where what a lock file names is kept, and whether it is there."""
    folder = faceid_home() / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    return folder, folder.is_dir()


def made(folder: Path, make: Callable[[Path], None]) -> Path:
    """Makes a folder under another name first: one that exists is whole."""
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    make(unfinished)
    if folder.exists():
        shutil.rmtree(unfinished)
    else:
        unfinished.rename(folder)
    return folder


def run(command: list, **settings) -> None:
    subprocess.run([str(part) for part in command], check=True, stdin=subprocess.DEVNULL, **settings)
