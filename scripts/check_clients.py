#!/usr/bin/env python3
"""Generates clients of the API from openapi.yaml, and lets each do what an integrator does first, against a server.

    make clients

Python: openapi-python-client. TypeScript: openapi-typescript and openapi-fetch. Both come at the versions and hashes that the lock files
beside tests/clients/ name, into the folder of `make setup`, and stay there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

from artefacts import faceid_home
from doc_pages import CHECKOUT
from example_server import ExampleError, Place, place

CLIENTS = CHECKOUT / "tests/clients"
KEYS = {"--client-key": "client-key-of-this-check", "--admin-key": "admin-key-of-this-check"}
NETWORK = "weights/mobilefacenet-512.onnx"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faceid", type=Path, default=CHECKOUT / "target/debug/faceid", help="the program to check")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that servers are stopped
    photos = Path(os.environ.get("FACEID_TEST_DATA", CHECKOUT / "../shared/data"))
    try:
        if not photos.is_dir():
            return no_photos(photos)
        tools = {"python": python_tools(), "typescript": typescript_tools()}
        with place(options.faceid, photos) as where:
            make_archive(where)
            with where.server([part for flag in KEYS.items() for part in flag]):
                for language, check in (("python", python), ("typescript", typescript)):
                    check(where, tools[language])
                    print(f"clients: the {language} client enrolls, identifies, verifies, pages, imports and follows", flush=True)
    except (ExampleError, subprocess.CalledProcessError) as error:
        print(f"clients: {error}", file=sys.stderr)
        return 1
    return 0


def no_photos(photos: Path) -> int:
    print(f"clients: there is no {photos} (FACEID_TEST_DATA names another folder)", file=sys.stderr)
    return 1 if os.environ.get("CI") == "true" else 0


def tools_folder(name: str, *locks: Path) -> tuple[Path, bool]:
    """Where what the lock files name is kept, and whether it is there."""
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    folder = faceid_home() / f"{name}-{digest}"
    return folder, folder.is_dir()


def made(folder: Path, make) -> Path:
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


def python_tools() -> Path:
    lock = CLIENTS / "python/requirements.txt"
    folder, there = tools_folder(f"clients-python{sys.version_info.major}{sys.version_info.minor}", lock)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", lock, "--target"]
    return folder if there else made(folder, lambda into: run([*install, into]))


def typescript_tools() -> Path:
    sources = CLIENTS / "typescript"
    folder, there = tools_folder("clients-typescript", sources / "package-lock.json")

    def install(into: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(sources / name, into / name)
        run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=into)

    return folder if there else made(folder, install)


def python(where: Place, tools: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tools)}
    generated = where.folder / "python"
    generate = ["-m", "openapi_python_client", "generate", "--path", CHECKOUT / "openapi.yaml", "--output-path", generated]
    run([sys.executable, *generate, "--config", CLIENTS / "python/config.yml"], env=environment, stdout=subprocess.DEVNULL)
    environment["PYTHONPATH"] = f"{generated}:{tools}"
    run([sys.executable, CLIENTS / "python/walkthrough.py", *arguments(where)], env=environment)


def typescript(where: Place, tools: Path) -> None:
    folder = where.folder / "typescript"
    folder.mkdir()
    for name in ("package.json", "tsconfig.json", "walkthrough.ts"):
        shutil.copyfile(CLIENTS / "typescript" / name, folder / name)
    (folder / "node_modules").symlink_to(tools / "node_modules")
    programs = tools / "node_modules/.bin"
    run([programs / "openapi-typescript", CHECKOUT / "openapi.yaml", "-o", folder / "faceid.d.ts"], cwd=folder, stdout=subprocess.DEVNULL)
    run([programs / "tsc", "--project", folder], cwd=folder)
    run(["node", folder / "built/walkthrough.js", *arguments(where)], cwd=folder)


def arguments(where: Place) -> list[str]:
    return [f"http://127.0.0.1:{where.port}", KEYS["--admin-key"], str(where.work), str(faceid_home() / NETWORK)]


def make_archive(where: Place) -> None:
    with zipfile.ZipFile(where.work / "people.zip", "w") as archive:
        for photo in sorted((where.work / "people").glob("*/*.jpg"))[:6]:
            archive.write(photo, f"{photo.parent.name}/{photo.name}")


def run(command: list, **settings) -> None:
    subprocess.run([str(part) for part in command], check=True, stdin=subprocess.DEVNULL, **settings)


if __name__ == "__main__":
    sys.exit(main())
