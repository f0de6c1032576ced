#!/usr/bin/env python3
"""Writes src/http/openapi/examples.json: for every operation of the API a request and what a server answered to it.

    cargo build && python3 scripts/make_examples.py

The requests are made in one go at a new server, so that one example fits the next. Where photos were sent a small one is shown, and of
long lists of answers the beginning. `make examples` holds all of them to the schemas; nothing else has to change with them, so they are made anew only when they no longer fit.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import sys
import time
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

from artefacts import faceid_home
from doc_pages import CHECKOUT
from example_server import Place, opener, place

TARGET = CHECKOUT / "src/http/openapi/examples.json"
NETWORK = "weights/mobilefacenet-512.onnx"
IMAGE = CHECKOUT / "docs/images/face.jpg"  # small, and one that can be sent as it is
FILES = ("image", "image_a", "image_b", "images", "candidates", "file")
NUMBERS = 4  # of a vector


class Story:
    """What was asked and answered, by operation."""

    def __init__(self, where: Place):
        self.where, self.base, self.told = where, f"http://127.0.0.1:{where.port}", {}
        self.key: str | None = None  # once the server asks for one
        self.operations = {}
        for path, methods in self.ask("GET", "/openapi.json")[1]["paths"].items():
            for method, operation in methods.items():
                self.operations[method.upper(), path] = operation["operationId"]

    def ask(self, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", **({"x-api-key": self.key} if self.key else {})}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        try:
            answer = opener().open(request, timeout=600)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
            is_json = "json" in (answer.headers.get_content_type() or "")
            return answer.status, json.loads(content) if content and is_json else None

    def tell(self, method: str, route: str, body: dict | None = None, query: str = "", **named):
        """Asks, and keeps what is answered; the answer."""
        path = route
        for name, value in named.items():
            path = path.replace(f"{{{name}}}", urllib.parse.quote(str(value), safe=""))
        status, answer = self.ask(method, path + query, body)
        if status >= 300:
            sys.exit(f"{method} {path}: {status} {answer}")
        kept = self.told.setdefault(self.operations[method, route], {"answers": {}})
        if body:
            kept["request"] = shown(body)
        if answer is not None:
            kept["answers"][str(status)] = short(answer)
        return answer

    def photo(self, name: str) -> str:
        return base64.b64encode((self.where.work / name).read_bytes()).decode()

    def finished(self, job: dict) -> dict:
        while job["state"] not in ("succeeded", "failed", "cancelled"):
            time.sleep(0.2)
            job = self.ask("GET", f"/admin/jobs/{job['id']}")[1]
        return job


def shown(request: dict) -> dict:
    """A request with a small photo, and with numbers of few digits."""
    photo = base64.b64encode(IMAGE.read_bytes()).decode()
    small = {name: [photo] * len(value) if isinstance(value, list) else photo for name, value in request.items() if name in FILES}
    vector = {"embedding": [round(number, 4) for number in request["embedding"]]} if "embedding" in request else {}
    network = {"file": "CAcSB3B5dG9yY2g6"} if "file" in request else {}  # how an ONNX file begins
    return {**request, **small, **vector, **network}


def short(value, name: str = ""):
    """The beginning of the lists of an answer."""
    if isinstance(value, dict):
        return {key: short(item, key) for key, item in value.items()}
    if isinstance(value, list):
        items = value[:NUMBERS] if name in ("embedding", "thresholds") else value[:2]
        return [short(item, name) for item in items]
    return value


def people(story: Story) -> bytes:
    """An archive with some photos of some people."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as content:
        for folder in sorted((story.where.work / "people").iterdir()):
            for path in sorted(folder.glob("*.jpg")):
                content.write(path, f"{folder.name}/{path.name}")
    return archive.getvalue()


def upload(story: Story, gallery: str) -> dict:
    request = urllib.request.Request(f"{story.base}/admin/datasets?gallery={gallery}", people(story), {"content-type": "application/zip"})
    with opener().open(request, timeout=600) as answer:
        job = json.loads(answer.read())
    story.told["upload_dataset"] = {"answers": {"202": short(job)}}
    return story.finished(job)


def tell_all(story: Story) -> None:
    tell, photo = story.tell, story.photo
    for path in ("/version", "/info", "/readyz"):
        tell("GET", path)
    tell("POST", "/galleries", {"name": "staff"})
    tell("PATCH", "/galleries/{gallery}", {"policy": {"fpir": 0.003}, "retention": {"subjects_days": 365}}, gallery="staff")
    staff = {"gallery": "staff"}
    ada = tell("POST", "/enroll", {"image": photo("ada.jpg"), "subject": "Ada", "metadata": {"badge": 7}, **staff})
    story.ask("POST", "/enroll", {"image": photo("bob.jpg"), "subject": "Bob", **staff})
    tell("POST", "/identify", {"image": photo("ada-2.jpg"), "top_k": 2, **staff})
    tell("POST", "/identify/batch", {"images": [photo("ada-2.jpg"), photo("bob.jpg")], "top_k": 1, **staff})
    embedded = tell("POST", "/embed", {"image": photo("ada-2.jpg"), "max_faces": 1})
    embedding = embedded["faces"][0]["embedding"]
    tell("POST", "/embed/batch", {"images": [photo("ada-2.jpg"), photo("bob.jpg")], "max_faces": 1})
    tell("POST", "/identify/embedding", {"embedding": embedding, "top_k": 2, **staff})
    tell("POST", "/verify", {"image_a": photo("ada.jpg"), "image_b": photo("ada-2.jpg"), "fmr": 0.0001})
    tell("POST", "/compare", {"image": photo("ada-2.jpg"), "candidates": [photo("ada.jpg"), photo("bob.jpg")]})
    tell("POST", "/subjects/{subject}/verify", {"image": photo("ada-2.jpg")}, "?gallery=staff", subject="Ada")
    tell("POST", "/subjects/{subject}/identify", {"top_k": 2}, "?gallery=staff", subject="Ada")
    tell("POST", "/faces/{face}/verify", {"embedding": embedding}, face=ada["face_id"])
    tell("POST", "/faces/{face}/identify", {"top_k": 2}, face=ada["face_id"])
    tell("POST", "/detect", {"image": photo("group.jpg"), "max_faces": 2})
    tell("POST", "/subjects", {"name": "Grace", "metadata": {"site": "east"}, **staff})
    tell("PATCH", "/subjects/{subject}", {"name": "Grace Hopper"}, "?gallery=staff", subject="Grace")
    again = story.ask("POST", "/enroll", {"image": photo("ada-2.jpg"), "subject": "Ada L.", **staff})[1]
    tell("POST", "/subjects/{subject}/merge", {"subject": "Ada L."}, "?gallery=staff", subject="Ada")
    tell("POST", "/faces/{face}/move", {"subject": "Ada"}, face=again["face_id"])
    tell("GET", "/galleries", query="?limit=2")
    tell("GET", "/galleries/{gallery}", gallery="staff")
    tell("GET", "/subjects", query="?gallery=staff&limit=2")
    tell("GET", "/subjects/{subject}", query="?gallery=staff", subject="Ada")
    tell("GET", "/subjects/{subject}/faces", query="?gallery=staff", subject="Ada")
    tell("GET", "/subjects/{subject}/export", query="?gallery=staff", subject="Ada")
    tell("GET", "/faces", query="?gallery=staff&limit=2")
    tell("GET", "/faces/{face}", face=ada["face_id"])
    tell("DELETE", "/faces/{face}", face=again["face_id"])
    tell("DELETE", "/subjects/{subject}", query="?gallery=staff", subject="Grace Hopper")
    again = story.ask("POST", "/enroll", {"image": photo("ada-2.jpg"), "subject": "Ada", **staff})[1]
    tell("POST", "/delete/faces", {"faces": [again["face_id"]]})
    tell("POST", "/delete/subjects", {"subjects": ["Bob", "Carl"], **staff})
    job = upload(story, "gate-3")
    tell("GET", "/admin/jobs/{job}", job=job["id"])
    twin = story.where.work / "people" / sorted(path.name for path in (story.where.work / "people").iterdir())[0]
    image = base64.b64encode(sorted(twin.glob("*.jpg"))[0].read_bytes()).decode()
    story.ask("POST", "/enroll", {"image": image, "subject": "the same", "gallery": "gate-3", "on_duplicate": "allow"})
    time.sleep(15)  # until the gallery is reviewed
    tell("GET", "/duplicates", query="?gallery=gate-3")
    tell("GET", "/anomalies", query="?gallery=gate-3")
    tell("DELETE", "/galleries/{gallery}", gallery="staff")
    network = base64.b64encode((faceid_home() / NETWORK).read_bytes()).decode()
    model = tell("POST", "/admin/models", {"file": network})["name"]
    tell("GET", "/admin/models")
    story.finished(tell("POST", "/admin/models/{model}/evaluate", {"gallery": "gate-3"}, model=model))
    tell("GET", "/admin/models/{model}", model=model)
    tell("POST", "/admin/models/{model}/shadow", {"share": 1.0}, model=model)
    while story.ask("GET", f"/admin/models/{model}/shadow")[0] != 200:
        time.sleep(0.2)
    story.ask("POST", "/identify", {"image": photo("group.jpg"), "gallery": "gate-3"})
    time.sleep(5)
    tell("GET", "/admin/models/{model}/shadow", model=model)
    tell("GET", "/admin/models/{model}/disagreements", model=model)
    story.ask("DELETE", f"/admin/models/{model}/shadow")
    story.finished(tell("POST", "/admin/models/{model}/promote", {"force": True}, model=model))
    story.finished(tell("POST", "/admin/rollback"))
    story.finished(tell("POST", "/admin/models/{model}/retire", {"force": True}, model=model))
    job = tell("POST", "/admin/retrain", {"gallery": "gate-3", "base": "scratch", "steps": 20})
    tell("POST", "/admin/jobs/{job}/cancel", job=job["id"])
    tell("GET", "/admin/jobs", query="?limit=2")
    erased = tell("GET", "/erasures", query="?limit=1")["items"][0]["id"]
    for _ in range(300):
        if story.ask("GET", f"/erasures/{erased}")[1]["state"] == "gone":
            break
        time.sleep(0.2)
    tell("GET", "/erasures/{erasure}", erasure=erased)
    tell("GET", "/admin/audit", query="?action=model&limit=2")
    tell("GET", "/admin/audit/head")
    tell("GET", "/admin/quarantine")
    tell_of_keys(story)


def tell_of_keys(story: Story) -> None:
    """At the end: from the first key on, the server asks for one."""
    owner = story.ask("POST", "/admin/keys", {"name": "boss", "role": "owner"})[1]
    story.key = owner["key"]
    new = {"name": "gate 3", "role": "identify", "galleries": ["gate-3"], "expires_at": "2099-12-31T00:00:00Z"}
    new["limits"] = {"requests_per_second": 5, "request_burst": 20, "concurrent_requests": 4}
    story.tell("POST", "/admin/keys", new)
    story.tell("GET", "/admin/keys")
    story.tell("GET", "/admin/keys/{key}", key="gate 3")
    story.tell("POST", "/admin/keys/{key}/rotate", {"keep_for": 3600}, key="gate 3")
    story.tell("DELETE", "/admin/keys/{key}", key="gate 3")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faceid", type=Path, default=CHECKOUT / "target/debug/faceid", help="the program to ask")
    options = parser.parse_args()
    photos = Path(os.environ.get("FACEID_TEST_DATA", CHECKOUT / "../shared/data"))
    with place(options.faceid, photos) as where, where.server([]):
        story = Story(where)
        tell_all(story)
        left = sorted(set(story.operations.values()) - set(story.told))
        print(f"without an example: {', '.join(left)}")
        TARGET.write_text(json.dumps(story.told, sort_keys=True, ensure_ascii=False, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
