"""What programs that use none of CompreFace's SDKs ask of it by plain HTTP, as they send it, and what they read of the answers. Arguments:
the server's address, a folder with the test photos, a key for a gallery that is empty, a key for another one.

The requests are made here after the sources of the programs, which each part names; nothing of them is taken over.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus, urlsplit
from uuid import uuid4

PAGE = "http://camera.example"  # the origin of a page in a browser
NO_FACE, SEVERAL_FACES = 28, 31


class Answer:
    def __init__(self, response: http.client.HTTPResponse):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def data(self):
        return json.loads(self.body)

    def expect(self, status: int):
        assert self.status == status, (self.status, self.body)
        return self.data

    def fails(self, status: int, code: int) -> None:
        data = self.expect(status)
        assert data.keys() == {"message", "code"} and data["code"] == code and data["message"], data
        assert self.headers["content-type"] == "application/json", self.headers["content-type"]


class Server:
    def __init__(self, address: str, key: str):
        self.at, self.key = urlsplit(address).netloc, key

    def send(self, method: str, path: str, body=None, headers: dict[str, str] | None = None, key: str | None = "", **settings) -> Answer:
        """`key`: None sends no key."""
        connection = http.client.HTTPConnection(self.at, timeout=120)
        shown = {} if key is None else {"x-api-key": key or self.key}
        try:
            connection.request(method, path, body, {**shown, **(headers or {})}, **settings)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def upload(self, path: str, form: bytes, boundary: str, **settings) -> Answer:
        return self.send("POST", path, form, {"Content-Type": f"multipart/form-data; boundary={boundary}"}, **settings)


def part(boundary: str, name: str, content: bytes, file_name: str | None = None, kind: str | None = None) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
    head += f'; filename="{file_name}"' if file_name else ""
    head += f"\r\nContent-Type: {kind}" if kind else ""
    return head.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(boundary: str, *parts: bytes) -> bytes:
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


# Double-Take, which Frigate's documentation names for faces (blakeblackshear/frigate, docs/docs/integrations/third_party_extensions.md; Frigate
# itself never calls CompreFace), and which Home Assistant runs as an add-on: jakowenko/double-take and skrashevich/double-take,
# api/src/util/detectors/compreface.js (recognize, train, remove, normalize), api/src/util/train.util.js (what it does with failures),
# api/src/constants/defaults.js (its thresholds), api/src/util/process.util.js (how it calls the files of Frigate's snapshots).
class DoubleTake:
    MATCH, UNKNOWN, LEAST_AREA = 60, 40, 10_000

    def __init__(self, server: Server):
        self.server = server

    def post(self, path: str, photo: Path, file_name: str) -> Answer:
        """axios streams a form whose length it does not know."""
        boundary = "-" * 26 + f"{uuid4().int:039d}"[:24]
        body = form(boundary, part(boundary, "file", photo.read_bytes(), file_name, "image/jpeg"))
        pieces = (body[at:at + 65536] for at in range(0, len(body), 65536))
        headers = {
            "Accept": "application/json, text/plain, */*",
            "User-Agent": "axios/0.27.2",
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Transfer-Encoding": "chunked",
        }
        return self.server.send("POST", path, pieces, headers, encode_chunked=True)

    def recognize(self, photo: Path, plugins: str = "undefined") -> list[dict]:
        """Without plugins in its configuration it asks for one that is called `undefined`."""
        path = f"/api/v1/recognition/recognize?face_plugins={plugins}&det_prob_threshold=0.8"
        # A snapshot of Frigate: the event, what it is, and a random name.
        data = self.post(path, photo, f"1699876543.123456-abcdef-latest-{uuid4()}.jpg").data
        if not data.get("result"):
            assert data["code"] == NO_FACE, data  # anything else is an error to it
            return []
        return [self.read(face) for face in data["result"]]

    def read(self, face: dict) -> dict:
        best = face["subjects"][0] if face["subjects"] else None
        confidence = round(best["similarity"] * 100, 2) if best else 0
        box = face["box"]
        width, height = box["x_max"] - box["x_min"], box["y_max"] - box["y_min"]
        assert not {"age", "gender", "mask"} & face.keys()  # it shows them where they are
        return {
            "name": best["subject"].lower() if best and confidence >= self.UNKNOWN else "unknown",
            "match": confidence >= self.MATCH and width * height >= self.LEAST_AREA,
            "box": (box["x_min"], box["y_min"], width, height),
            "pose": face.get("pose"),
        }

    def train(self, name: str, photo: Path) -> Answer:
        return self.post(f"/api/v1/recognition/faces?subject={quote_plus(name)}", photo, photo.name)

    def remove(self, name: str) -> Answer:
        headers = {"Accept": "application/json, text/plain, */*", "User-Agent": "axios/0.27.2"}
        return self.server.send("DELETE", f"/api/v1/recognition/faces?subject={quote_plus(name)}", headers=headers)


def check_double_take(server: Server, scenes: Path) -> None:
    double_take = DoubleTake(server)
    ada, again, bob, group, nobody = (scenes / f"{name}.jpg" for name in ("004_A", "002_A", "009_C", "000_5", "017_0"))
    assert double_take.recognize(nobody) == []
    assert [face["name"] for face in double_take.recognize(ada)] == ["unknown"]  # nobody is enrolled

    for photo in (ada, again):
        trained = double_take.train("Ada Lovelace", photo)
        assert trained.expect(201)["subject"] == "Ada Lovelace"
    # What it keeps of a photo that is refused, and shows.
    double_take.train("Ada Lovelace", group).fails(400, SEVERAL_FACES)
    double_take.train("Ada Lovelace", nobody).fails(400, NO_FACE)

    for plugins in ("undefined", "", "mask,gender,age", "landmarks,gender,age,pose"):
        [face] = double_take.recognize(again, plugins)
        assert face["name"] == "ada lovelace" and face["match"], face
        assert (face["pose"] is not None) == ("pose" in plugins), face
    assert [(face["name"], face["match"]) for face in double_take.recognize(bob)] == [("unknown", False)]
    faces = double_take.recognize(group)
    assert [face["name"] for face in faces] == ["unknown"] * 5, faces
    # In pixels of the photo as it was sent, by which the least area of a match is meant.
    noses = json.loads((scenes / "truth.json").read_text())["noses"]["000_5.jpg"]
    for left, top, width, height in (face["box"] for face in faces):
        assert any(left < x < left + width and top < y < top + height for x, y in noses), (left, top, width, height)

    assert double_take.remove("ada lovelace").expect(200) == {"deleted": 2}
    assert double_take.remove("ada lovelace").expect(200) == {"deleted": 0}
    assert [face["name"] for face in double_take.recognize(again)] == ["unknown"]


# Programs that send photos as base64 in JSON, as exadel-inc/CompreFace has it in docs/Rest-API-description.md (Base64 support), some of them
# with what browsers put before it.
def check_base64(server: Server, scenes: Path) -> None:
    def post(path: str, **images: str) -> Answer:
        return server.send("POST", path, json.dumps(images), {"Content-Type": "application/json"})

    ada, again = (base64.b64encode((scenes / f"{name}.jpg").read_bytes()).decode() for name in ("007_B", "008_B"))
    image = post("/api/v1/recognition/faces/?subject=Ada", file=ada).expect(201)
    for file in (again, f"data:image/jpeg;base64,{again}"):
        [face] = post("/api/v1/recognition/recognize?limit=5", file=file).expect(200)["result"]
        assert face["subjects"][0]["subject"] == "Ada"
    [face] = post(f"/api/v1/recognition/faces/{image['image_id']}/verify", file=again).expect(200)["result"]
    assert face["subject"] == "Ada" and face["similarity"] > 0.6
    assert len(post("/api/v1/detection/detect", file=ada).expect(200)["result"]) == 1
    [result] = post("/api/v1/verification/verify", source_image=ada, target_image=again).expect(200)["result"]
    assert result["face_matches"][0]["similarity"] > 0.6
    post("/api/v1/detection/detect", file="§").fails(400, 21)
    post("/api/v1/detection/detect", photo=ada).fails(400, 5)
    post("/api/v1/verification/verify", source_image=ada).fails(400, 5)
    check_embeddings(server, image["image_id"], ada, again)
    assert server.send("DELETE", "/api/v1/recognition/faces").expect(200) == {"deleted": 1}  # everything, as the manual has it
    server.send("DELETE", "/api/v1/recognition/subjects").expect(200)


def check_embeddings(server: Server, image: str, ada: str, again: str) -> None:
    """exadel-inc/CompreFace, docs/Face-services-and-plugins.md and its controllers of embeddings: what the calculator gave, sent back."""
    def post(path: str, body: dict) -> Answer:
        return server.send("POST", f"/api/v1/{path}", json.dumps(body), {"Content-Type": "application/json"})

    def embedding(photo: str) -> list[float]:
        [face] = post("detection/detect?face_plugins=calculator", {"file": photo}).expect(200)["result"]
        return face["embedding"]

    one, other = embedding(ada), embedding(again)
    opposite = [-number for number in one]
    twice = [2 * number for number in other]  # of any length
    result = post("recognition/embeddings/recognize?prediction_count=2", {"embeddings": [opposite, twice]}).expect(200)["result"]
    assert [entry.keys() for entry in result] == [{"embedding", "similarities"}] * 2
    assert [round(number, 5) for number in result[1]["embedding"]] == [round(number, 5) for number in twice]  # in the order of the request
    assert [entry["similarities"][0]["subject"] for entry in result] == ["Ada", "Ada"]
    assert result[0]["similarities"][0]["similarity"] < 0.01 and result[1]["similarities"][0]["similarity"] > 0.6
    for path, body in (
        (f"recognition/embeddings/faces/{image}/verify", {"embeddings": [opposite, one]}),
        ("verification/embeddings/verify", {"source": one, "targets": [opposite, one]}),
    ):
        result = post(path, body).expect(200)["result"]
        assert [entry.keys() for entry in result] == [{"embedding", "similarity"}] * 2
        assert result[0]["similarity"] > 0.99 and result[1]["similarity"] < 0.01, result  # highest first
    for path, body in (
        ("recognition/embeddings/recognize", {"embeddings": []}),
        ("recognition/embeddings/recognize", {}),
        ("verification/embeddings/verify", {"source": [], "targets": [one]}),
        ("verification/embeddings/verify", {"source": one}),
    ):
        post(path, body).fails(400, 5)
    post("recognition/embeddings/recognize", {"embeddings": [[0.5, 0.5]]}).fails(400, 0)
    post(f"recognition/embeddings/faces/{uuid4()}/verify", {"embeddings": [one]}).fails(404, 44)


# CompreFace's own pages: exadel-inc/CompreFace, ui/src/app/core/collection/collection.service.ts and
# ui/src/app/core/face-recognition/face-recognition.service.ts, as a browser sends them (Angular's HttpClient).
def check_pages(server: Server, other: Server, scenes: Path) -> None:
    boundary = "----WebKitFormBoundaryabcdefghijklmnop"
    browser = {"Origin": PAGE, "Accept": "application/json, text/plain, */*", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}

    def call(method: str, path: str, body=None, **settings) -> Answer:
        headers = {**browser, "Content-Type": "application/json"} if body is not None else browser
        return server.send(method, f"/api/v1/recognition/{path}", body and json.dumps(body), headers, **settings)

    def upload(path: str, photo: Path, **texts: str) -> Answer:
        parts = [part(boundary, name, text.encode()) for name, text in texts.items()]
        body = form(boundary, *parts, part(boundary, "file", photo.read_bytes(), photo.name, "image/jpeg"))
        return server.send("POST", f"/api/v1/{path}", body, {**browser, "Content-Type": f"multipart/form-data; boundary={boundary}"})

    name = "Zoë & Ada"
    assert call("POST", "subjects", {"subject": "Zoë"}).expect(201) == {"subject": "Zoë"}
    assert call("PUT", f"subjects/{quote('Zoë')}", {"subject": name}).expect(200) == {"updated": True}
    images = [upload(f"recognition/faces?subject={quote(name)}", scenes / f"{photo}.jpg").expect(201)["image_id"] for photo in ("007_B", "008_B")]
    images.append(upload("recognition/faces", scenes / "007_B.jpg", subject=name).expect(201)["image_id"])  # the name in the form
    page = call("GET", f"faces?size=2&subject={quote(name)}&page=1").expect(200)
    assert (page["page_number"], page["page_size"], page["total_pages"], page["total_elements"], len(page["faces"])) == (1, 2, 2, 3, 1), page
    assert call("GET", f"faces?size=2&subject={quote(name)}&page=7").expect(200)["faces"] == []
    assert call("GET", f"faces?subject={quote('zoë & ada')}").expect(200)["total_elements"] == 0  # a filter goes by the letter

    answer = upload("recognition/recognize?face_plugins=landmarks&face_plugins=age&status=true", scenes / "008_B.jpg").expect(200)
    assert answer["result"][0]["subjects"][0]["subject"] == name and answer["result"][0]["landmarks"] and answer["plugins_versions"]

    check_downloads(server, other, images[0])
    gone = call("POST", "faces/delete", [images[0], str(uuid4()), images[1]]).expect(200)
    assert sorted(gone, key=lambda image: image["image_id"]) == sorted(
        ({"image_id": image, "subject": name} for image in images[:2]), key=lambda image: image["image_id"])
    assert call("DELETE", f"faces/{images[2]}").expect(200) == {"image_id": images[2], "subject": name}
    assert call("DELETE", f"subjects/{quote(name)}").expect(200) == {"subject": name}
    config = server.send("GET", "/api/v1/config", key=None).expect(200)
    assert config.keys() == {"clientMaxFileSize", "clientMaxBodySize"} and all(type(size) is int for size in config.values())
    check_cors(server, browser)


def check_downloads(server: Server, other: Server, image: str) -> None:
    paths = {f"/api/v1/recognition/faces/{image}/img": "", f"/api/v1/static/{server.key}/images/{image}": None}
    for path, key in paths.items():
        answer = server.send("GET", path, key=key)
        assert answer.status == 200 and answer.body[:2] == b"\xff\xd8", (answer.status, answer.body[:60])
        assert answer.headers["content-type"] == "application/octet-stream", answer.headers["content-type"]
        # CompreFace lets caches keep it for a year.
        assert answer.headers["cache-control"] == "no-store", answer.headers["cache-control"]
    for path, key in (
        (f"/api/v1/recognition/faces/{uuid4()}/img", ""),
        (f"/api/v1/static/{server.key}/images/{uuid4()}", None),
        (f"/api/v1/recognition/faces/{image}/img", other.key),
        (f"/api/v1/static/{other.key}/images/{image}", None),
    ):
        answer = server.send("GET", path, key=key)
        assert (answer.status, answer.body) == (200, b""), (path, answer.status, answer.body[:60])


def check_cors(server: Server, browser: dict[str, str]) -> None:
    """A page of another origin asks before it sends a key, and reads answers of every kind."""
    for method, path in (("POST", "recognize"), ("DELETE", "faces"), ("PUT", "subjects/Ada"), ("GET", "subjects")):
        asking = {**browser, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "content-type,x-api-key"}
        answer = server.send("OPTIONS", f"/api/v1/recognition/{path}", headers=asking, key=None)
        assert (answer.status, answer.body) == (204, b""), (answer.status, answer.body)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert method in answer.headers["access-control-allow-methods"].replace(" ", "").split(",")
        allowed = answer.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
        assert {"content-type", "x-api-key"} <= set(allowed), allowed
    for path, key, status in (
        ("recognition/subjects", "", 200),
        ("recognition/subjects", str(uuid4()), 404),
        ("recognition/subjects", None, 400),
        ("recognition/nothing", "", 404),
        ("detection/detect", "", 404),  # GET is not for it
        ("config", None, 200),
    ):
        answer = server.send("GET", f"/api/v1/{path}", headers=browser, key=key)
        assert answer.status == status, (path, answer.status, answer.body)
        assert answer.headers["access-control-allow-origin"] == "*", path


# What CompreFace says to requests that are wrong: exadel-inc/CompreFace, java/common/src/main/java/com/exadel/frs/commonservice/handler and
# exception, of which clients branch on the numbers.
def check_failures(server: Server, scenes: Path) -> None:
    boundary = "boundary"
    ada = (scenes / "007_B.jpg").read_bytes()

    def upload(path: str, name: str = "file", file_name: str = "a.jpg", content: bytes = ada, **settings) -> Answer:
        return server.upload(f"/api/v1/{path}", form(boundary, part(boundary, name, content, file_name)), boundary, **settings)

    for path in ("recognition/recognize", "detection/detect", "recognition/faces?subject=A", f"recognition/faces/{uuid4()}/verify"):
        upload(path, key=None).fails(400, 20)
        upload(path, key="short").fails(400, 26)
        upload(path, key="x" * 36).fails(400, 26)
        upload(path, key=str(uuid4())).fails(404, 10)
        upload(path, name="photo").fails(400, 34)
        upload(path, file_name="a.txt").fails(400, 21)
        upload(path, content=b"no image").fails(400, NO_FACE)
        upload(path, content=b"").fails(400, NO_FACE)
    upload("recognition/faces").fails(400, 33)
    upload("recognition/faces?subject=").fails(400, 26)
    upload("recognition/faces?subject=A", name="photo", key=str(uuid4())).fails(404, 10)  # the key before the part
    upload("recognition/recognize?limit=-1", name="photo").fails(400, 34)  # the part before the value
    upload("recognition/recognize?limit=-1", file_name="a.txt").fails(400, 26)  # the value before the name
    for query in ("limit=-1", "limit=abc", "prediction_count=0", "det_prob_threshold=1.5", "det_prob_threshold=x"):
        upload(f"recognition/recognize?{query}").fails(400, 26)
    upload("recognition/faces/7/verify").fails(400, 26)
    upload(f"recognition/faces/{uuid4()}/verify").fails(404, 44)
    upload("verification/verify", name="source_image").fails(400, 34)
    # Stray separators, values that are empty, names that nobody knows, any letter case of what is true.
    for query in ("?", "?&limit=1", "?limit=&det_prob_threshold=&prediction_count=&face_plugins=&status=", "?unknown=1&status=TRUE"):
        answer = upload(f"detection/detect{query}").expect(200)
        assert ("plugins_versions" in answer) == ("TRUE" in query), answer
    upload("detection/detect/").expect(200)
    upload("detection/detect", file_name="PHOTO.WEBP").expect(200)  # what it is goes by its bytes
    for path, body, kind, status, code in (
        ("subjects", b"{", "application/json", 400, 0),
        ("subjects", b"{}", "application/json", 400, 5),
        ("subjects", b"subject=Ada", "text/plain", 415, 0),
        ("faces/delete", b'["7"]', "application/json", 400, 26),
        ("recognize", ada, "image/jpeg", 415, 0),
    ):
        server.send("POST", f"/api/v1/recognition/{path}", body, {"Content-Type": kind}).fails(status, code)
    server.send("PATCH", "/api/v1/recognition/subjects").fails(404, 0)
    check_crops(upload)
    check_calibration(server, scenes, upload)


def check_crops(upload) -> None:
    """A face that is cut out already is not looked for."""
    [face] = upload("recognition/recognize?detect_faces=false").expect(200)["result"]
    assert face["box"]["probability"] == 1 and (face["box"]["x_min"], face["box"]["y_min"]) == (0, 0), face
    [detected] = upload("recognition/recognize").expect(200)["result"]
    assert face["box"]["x_max"] > detected["box"]["x_max"]


def check_calibration(server: Server, scenes: Path, upload) -> None:
    """What a similarity is computed of is told on request, and the threshold of the model is in the middle."""
    threshold = server.send("GET", "/info").expect(200)["model"]["threshold"]

    def scaled(cosine: float) -> float:
        distances = (math.sqrt(2 - 2 * number) for number in (threshold, cosine))
        return (math.tanh((next(distances) - next(distances)) * 6) + 1) / 2

    image = upload("recognition/faces?subject=Ada").expect(201)["image_id"]
    for photo in ("008_B", "009_C"):
        content = (scenes / f"{photo}.jpg").read_bytes()
        [face] = upload("recognition/recognize?face_plugins=calibration", content=content).expect(200)["result"]
        [best] = face["subjects"]
        [compared] = upload(f"recognition/faces/{image}/verify?face_plugins=calibration", content=content).expect(200)["result"]
        for match in (best, compared):
            assert abs(scaled(match["cosine"]) - match["similarity"]) < 1e-4 and 0 <= match["probability"] <= 1, match
    server.send("DELETE", "/api/v1/recognition/subjects").expect(200)


def main(address: str, photos: Path, key: str, another: str) -> None:
    server, other, scenes = Server(address, key), Server(address, another), photos / "scenes"
    check_double_take(server, scenes)
    check_base64(server, scenes)
    check_pages(server, other, scenes)
    check_failures(server, scenes)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
