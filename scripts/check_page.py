#!/usr/bin/env python3
"""What a web page of another origin can do with a server: headless Chromium opens scripts/check_page.html, whose webcam shows a
photo of somebody enrolled. The page identifies a frame of it, is refused in several ways, and reads why. The same page under
another origin, which the server does not know, reads nothing. And what the server's own pages show under the policy that they come
with: their style and pictures, and a request that the reference sends.

    sudo apt-get install chromium
    python3 scripts/check_page.py

Needs nothing else but the test photos: those of FACEID_TEST_DATA (default ../shared/data beside the checkout).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.server
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from doc_pages import CHECKOUT
from example_server import ExampleError, Place, group, opener, place

KEYS = {"--client-key": "client-key-of-this-check", "--admin-key": "admin-key-of-this-check"}
KEY = KEYS["--client-key"]
# One request at a time, so that six at once are too many.
LIMITS = {"--max-image-bytes": 256 << 10, "--max-body-bytes": 1 << 20, "--max-requests": 1}
# What the page adds to a photo: too much for an image, for a body, and for the server to take and throw away.
SIZES = {"image": 400 << 10, "body": 3 << 20, "huge": 64 << 20}
PERSON, ENROLLED, ON_CAMERA = "Ada", "ada.jpg", "ada-2.jpg"
ALWAYS = {"x-request-id", "x-total-time"}
PATIENCE = 120  # seconds until Chromium must have answered
FLAGS = (
    "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--window-size=900,900", "--remote-debugging-pipe",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)


# Notes what the policy of a page forbids it.
WATCH = "window.forbidden = []; addEventListener('securitypolicyviolation', (event) => forbidden.push(`${event.violatedDirective} ${event.blockedURI}`))"
LOADED = "new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))"
READ_PAGE = f"""{LOADED}.then(() => ({{
    forbidden, width: getComputedStyle(document.body).maxWidth, pictures: [...document.images].map((one) => one.naturalWidth)
}}))"""
TRY_REFERENCE = f"""{LOADED}.then(async () => {{
    const found = async (where) => {{
        for (let tries = 0; tries < 600; tries += 1) {{
            const one = document.querySelector(where);
            if (one) return one;
            await new Promise((done) => setTimeout(done, 100));
        }}
        throw new Error(`there is no ${{where}}`);
    }};
    const operation = "[id$=-version].opblock";
    for (const button of [".opblock-summary-control", ".try-out__btn", ".execute"]) (await found(`${{operation}} ${{button}}`)).click();
    const status = await found(`${{operation}} .live-responses-table tbody .response-col_status`);
    return {{forbidden, status: status.innerText.trim(), color: getComputedStyle(await found(`${{operation}} .opblock-summary-method`)).backgroundColor}};
}})"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faceid", type=Path, default=CHECKOUT / "target/debug/faceid", help="the program to check")
    parser.add_argument("--chromium", default="chromium", help="the browser (default: chromium)")
    parser.add_argument("--screenshot", type=Path, help="where to write what the page looked like, a PNG")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that servers are stopped
    photos = Path(os.environ.get("FACEID_TEST_DATA", CHECKOUT / "../shared/data"))
    try:
        if not photos.is_dir():
            raise ExampleError(f"there is no {photos} (FACEID_TEST_DATA names another folder)")
        if not shutil.which(options.chromium):
            raise ExampleError(f"{options.chromium} is missing: sudo apt-get install chromium")
        with place(options.faceid, photos) as where, site() as port:
            return check(where, port, options)
    except ExampleError as error:
        print(f"page: {error}", file=sys.stderr)
        return 1


def check(where: Place, port: int, options: argparse.Namespace) -> int:
    # The same page at two addresses; a browser takes these for different origins.
    known, unknown = f"http://localhost:{port}", f"http://127.0.0.1:{port}"
    flags = {**KEYS, **LIMITS, "--cors-origins": known}
    with where.server([str(part) for flag in flags.items() for part in flag]):
        people = enroll_people(where)
        with browser(options.chromium, where) as chromium:
            allowed = chromium.visit(address(known, where, "allowed"), options.screenshot)
            strange = chromium.visit(address(unknown, where, "stranger"))
            own = {name: chromium.look(f"http://127.0.0.1:{where.port}/docs/{name}", READ_PAGE) for name in ("", "architecture")}
            reference = chromium.look(f"http://127.0.0.1:{where.port}/docs/api/", TRY_REFERENCE)
        facts = [*facts_of_allowed(allowed), *facts_of_stranger(strange), *facts_of_own(own, reference)]
        after = names(where)
        facts.append(("its enrollment did not reach the server", after, after == people))
    for fact, saw, holds in facts:
        print(f"page: {fact}" if holds else f"page: NOT SO: {fact}; it saw {json.dumps(saw)[:600]}", flush=True)
    return 0 if all(holds for *_, holds in facts) else 1


def facts_of_allowed(seen: dict):
    """Each with what the page saw of it, and whether it is so."""
    camera, identified = seen["camera"], seen["identified"]
    yield "the page is a secure context and has a camera", camera, camera["secure"] and camera["width"] > 0
    yield f"it names {PERSON} from a frame of the camera", identified, recognized(identified)
    own = identified.get("headers", {}).get("x-request-id") == "asked-by-a-page"
    yield "it reads the request id that it sent, and the times", identified, own and readable(identified, "x-queue-time", "x-inference-time")
    refusals = {
        "wrongKey": ("a wrong key", 401, "unauthorized", ()),
        "wrongKeyLongBody": (f"a wrong key with {SIZES['body'] >> 20} MiB", 401, "unauthorized", ()),
        "largeImage": ("a photo beyond the limit of images", 413, "image_too_large", ()),
        "longBody": (f"a body of {SIZES['body'] >> 20} MiB where one may have 1", 413, "body_too_large", ()),
        "hugeBody": (f"a body of {SIZES['huge'] >> 20} MiB where one may have 1", 413, "body_too_large", ()),
        "overloaded": ("too many at once", 503, "overloaded", ("retry-after",)),
    }
    for name, (what, status, code, headers) in refusals.items():
        also = "".join(f", {header}" for header in (*sorted(ALWAYS), *headers))
        yield f"it reads {status} and {code} for {what}{also}", seen[name], refused(seen[name], status, code, headers)
    yield "after refusals, it is served as before", seen["afterwards"], recognized(seen["afterwards"])


def facts_of_stranger(seen: dict):
    yield "a page of an origin that the server does not know reads its own", seen["ownOrigin"], seen["ownOrigin"].get("status") == 200
    answers = {"identify": "an identification", "enroll": "an enrollment", "list": "a list, with the key", "refused": "a refusal, without it"}
    for name, what in {**answers, "open": "/healthz"}.items():
        yield f"it cannot read {what}", seen[name], set(seen[name]) == {"error"}
    nothing = {"status": 0, "type": "opaque", "headers": {}, "body": ""}
    yield "nor anything of /healthz in a request that browsers let pass (no-cors)", seen["opaque"], seen["opaque"] == nothing


def facts_of_own(pages: dict, reference: dict):
    yield "the server's own pages have their style", pages, all(page["width"] != "none" for page in pages.values())
    yield "and their pictures", pages, len(pages["architecture"]["pictures"]) > 1 and all(pages["architecture"]["pictures"])
    yield "its reference sends a request and shows the answer, in colour", reference, reference["status"] == "200" and reference["color"] != "rgba(0, 0, 0, 0)"
    yield "nothing on them is forbidden by their policy", [pages, reference], not any(page["forbidden"] for page in (*pages.values(), reference))


def recognized(answer: dict) -> bool:
    faces = answer.get("body", {}).get("faces", [])
    return answer.get("status") == 200 and len(faces) == 1 and faces[0]["known"] and faces[0]["matches"][0]["subject"] == PERSON


def refused(answer: dict, status: int, code: str, headers: tuple[str, ...]) -> bool:
    return answer.get("status") == status and answer["body"].get("code") == code and readable(answer, *headers)


def readable(answer: dict, *headers: str) -> bool:
    return {*ALWAYS, *headers} <= set(answer.get("headers", {}))


def enroll_people(where: Place) -> list[str]:
    """The person of the camera, and others whom it could be."""
    photos = {PERSON: where.work / ENROLLED}
    photos.update((folder.name, min(folder.glob("*.jpg"))) for folder in sorted((where.work / "people").iterdir()))
    for name, photo in photos.items():
        call(where, f"/enroll?{urllib.parse.urlencode({'subject': name, 'face': 'largest'})}", photo.read_bytes())
    return names(where)


def names(where: Place) -> list[str]:
    return sorted(subject["name"] for subject in call(where, "/subjects?limit=100")["items"])


def call(where: Place, path: str, photo: bytes | None = None) -> dict:
    headers = {"x-api-key": KEY, "content-type": "image/jpeg"}
    request = urllib.request.Request(f"http://127.0.0.1:{where.port}{path}", photo, headers)
    try:
        with opener().open(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ExampleError(f"{path}: {error.code} {error.read().decode()}") from error


def address(origin: str, where: Place, part: str) -> str:
    settings = {"server": f"http://127.0.0.1:{where.port}", "key": KEY, "part": part, **SIZES}
    return f"{origin}/check_page.html?{urllib.parse.urlencode(settings)}"


@contextlib.contextmanager
def site():
    """Serves the page, and nothing else; gives its port."""
    page = Path(__file__).with_suffix(".html").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = urllib.parse.urlsplit(self.path).path == "/check_page.html"
            self.send_response(200 if found else 404)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page if found else b"")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


@contextlib.contextmanager
def browser(program: str, where: Place):
    camera = where.folder / "camera.mjpeg"
    camera.write_bytes((where.work / ON_CAMERA).read_bytes() * 2)  # begins again at its end
    flags = [*FLAGS, f"--use-file-for-fake-video-capture={camera}", f"--user-data-dir={where.folder / 'chromium'}"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # root has none
    ours, theirs = socket.socketpair()
    # Chromium reads commands from 3 and answers on 4.
    command = ["bash", "-c", 'exec 3<&"$0" 4>&"$0"; exec "$@"', str(theirs.fileno()), program, *flags]
    log = where.folder / "chromium.log"
    with ours, theirs, log.open("w") as output:
        with group(command, env=where.environment, pass_fds=(theirs.fileno(),), stdout=output, stderr=output):
            theirs.close()
            ours.settimeout(PATIENCE)
            yield Browser(ours, log)


class Browser:
    """Chromium, by the DevTools protocol: JSON with a zero byte behind it."""

    def __init__(self, pipe: socket.socket, log: Path):
        self.pipe, self.log, self.rest, self.numbers = pipe, log, b"", itertools.count(1)

    def visit(self, url: str, screenshot: Path | None = None) -> dict:
        """What the page saw."""
        # Its script may not have begun.
        return self.look(url, f"{LOADED}.then(() => seen)", screenshot)

    def look(self, url: str, script: str, screenshot: Path | None = None) -> dict:
        """What a script makes of a page."""
        target = self.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self.send("Page.enable", {}, session)
        self.send("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH}, session)
        self.send("Page.navigate", {"url": url}, session)
        wanted = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self.send("Runtime.evaluate", wanted, session)
        if "exceptionDetails" in answer:
            raise ExampleError(f"the page failed: {json.dumps(answer['exceptionDetails'])}")
        if screenshot:
            screenshot.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", {}, session)["data"]))
        return answer["result"]["value"]

    def send(self, method: str, parameters: dict, session: str | None = None) -> dict:
        number = next(self.numbers)
        command = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        try:
            self.pipe.sendall(json.dumps(command).encode() + b"\0")
            while (answer := self.receive()).get("id") != number:
                pass  # events
        except OSError as error:
            words = "\n".join(self.log.read_text().splitlines()[-20:])
            raise ExampleError(f"Chromium does not answer {method} ({error}); its last words:\n{words}") from error
        if "error" in answer:
            raise ExampleError(f"Chromium refuses {method}: {answer['error']}")
        return answer["result"]

    def receive(self) -> dict:
        while b"\0" not in self.rest:
            part = self.pipe.recv(1 << 20)
            if not part:
                raise ConnectionError("it ended")
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)


if __name__ == "__main__":
    sys.exit(main())
