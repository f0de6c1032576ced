#!/usr/bin/env python3
"""Generates clients of the API from openapi.yaml, and lets each do what an integrator does first, against a server.

    make clients

Python: openapi-python-client. TypeScript: openapi-typescript and openapi-fetch. Both come at the versions and hashes that the lock files
beside tests/clients/ name, into the folder of `make setup`, and stay there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from artefacts import faceid_home
from client_tools import CLIENTS, node_packages, python_packages, run, run_check
from doc_pages import CHECKOUT
from example_server import Place, place

KEYS = {"--client-key": "client-key-of-this-check", "--admin-key": "admin-key-of-this-check"}
NETWORK = "weights/mobilefacenet-512.onnx"


def check(faceid: Path, photos: Path) -> None:
    tools = {
        "python": python_packages("clients-python", CLIENTS / "python/requirements.txt"),
        "typescript": node_packages("clients-typescript", CLIENTS / "typescript"),
    }
    with place(faceid, photos) as where:
        make_archive(where)
        with where.server([part for flag in KEYS.items() for part in flag]):
            for language, walk in (("python", python), ("typescript", typescript)):
                walk(where, tools[language])
                print(f"clients: the {language} client enrolls, identifies, verifies, pages, imports and follows", flush=True)


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


if __name__ == "__main__":
    sys.exit(run_check(__doc__.splitlines()[0], check))
