#!/usr/bin/env python3
"""Lets what was built for CompreFace do all that it can, against a server of faceid.

    make clients

The Python SDK `compreface-sdk` and the JavaScript SDK `@exadel/compreface-js-sdk`, unmodified, at the versions and hashes that the lock
files beside tests/clients/compreface/ name; and the plain HTTP of programs that use neither. Each has a gallery and a key of its own.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

from client_tools import CLIENTS, node_packages, python_packages, run, run_check
from example_server import Place, opener, place

SOURCES = CLIENTS / "compreface"
KEYS = {"--client-key": "client-key-of-this-check", "--admin-key": "admin-key-of-this-check"}


def check(faceid: Path, photos: Path) -> None:
    python = python_packages("compreface-python", SOURCES / "python/requirements.txt")
    javascript = node_packages("compreface-javascript", SOURCES / "javascript")
    with place(faceid, photos) as where:
        # A module is looked up from the folder that it lies in.
        (where.folder / "node_modules").symlink_to(javascript / "node_modules")
        walk = where.folder / "walkthrough.mjs"
        walk.write_bytes((SOURCES / "javascript/walkthrough.mjs").read_bytes())
        environment = {**where.environment, "PYTHONPATH": str(python)}
        with where.server([part for flag in KEYS.items() for part in flag]):
            server = f"http://127.0.0.1:{where.port}"
            walks = {
                "the Python SDK": [sys.executable, SOURCES / "python/walkthrough.py"],
                "the JavaScript SDK": ["node", walk],
                "plain HTTP": [sys.executable, SOURCES / "replay.py"],
            }
            for name, command in walks.items():
                keys = [collection(where, f"{name}, {whose}") for whose in ("its own", "another")]
                run([*command, server, photos, *keys], env=environment)
                print(f"compreface: {name} gets what CompreFace would answer", flush=True)


def collection(where: Place, name: str) -> str:
    """A key for a gallery of its own, as a recognition service of CompreFace has one for its collection."""
    ask(where, "/galleries", {"name": name})
    return ask(where, "/admin/keys", {"name": name, "role": "enrol", "galleries": [name]})["key"]


def ask(where: Place, path: str, body: dict) -> dict:
    headers = {"content-type": "application/json", "x-api-key": KEYS["--admin-key"]}
    request = urllib.request.Request(f"http://127.0.0.1:{where.port}{path}", json.dumps(body).encode(), headers)
    with opener().open(request, timeout=60) as answer:
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(run_check(__doc__.splitlines()[0], check))
