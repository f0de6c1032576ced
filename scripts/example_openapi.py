"""openapi.yaml against itself and against a server: its examples and real answers must fit its schemas."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Iterator

from artefacts import LIBRARIES_FOLDER, faceid_home
from example_server import Place, opener

# What the server has been told before it is asked; lists that are empty would show nothing.
ENROLLED = (("Ada", "ada.jpg"), ("Ada", "ada-2.jpg"), ("Bob", "bob.jpg"))
MEDIA_TYPES = ("application/json", "application/problem+json")
NO_DOCUMENT = ("text/event-stream",)  # streams without an end


def check_openapi(where: Place) -> tuple[int, list[str]]:
    """How much was checked, and what does not fit. The document is the one that the server gives, which is openapi.yaml."""
    client = Client(where)
    document = client.get("/openapi.json")[2]
    schemas = Schemas(document)
    failures, count = [], 0
    for path, schema, example in examples(document):
        count += 1
        failures += [f"openapi.yaml: example {path}: {problem}" for problem in schemas.problems(example, schema)]
    known = client.enroll()
    for path, operation in document["paths"].items():
        address = filled_in(path, operation.get("get"), known)
        if address is None:
            continue
        count += 1
        failures += [f"GET {address}: {problem}" for problem in answer_problems(client, schemas, address, operation["get"])]
    return count, failures


class Client:
    def __init__(self, where: Place):
        self.where, self.base = where, f"http://127.0.0.1:{where.port}"

    def get(self, path: str) -> tuple[int, str, object]:
        return self.ask(urllib.request.Request(self.base + path))

    def ask(self, request: urllib.request.Request) -> tuple[int, str, object]:
        """The status, the media type, and the document if it is one."""
        try:
            answer = opener().open(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            media_type, body = answer.headers.get_content_type(), answer.read()
        return answer.status, media_type, json.loads(body) if media_type in MEDIA_TYPES else None

    def enroll(self) -> dict[str, str]:
        """Values for the parameters of paths."""
        for subject, photo in ENROLLED:
            query = urllib.parse.urlencode({"subject": subject})
            image = (self.where.work / photo).read_bytes()
            request = urllib.request.Request(f"{self.base}/enroll?{query}", image, {"content-type": "image/jpeg"})
            status, _, face = self.ask(request)
            assert status == 201, face
        return {"gallery": face["gallery"], "subject": face["subject"], "face": face["face_id"], "model": face["model"], "job": str(uuid.UUID(int=0))}


def filled_in(path: str, operation: dict | None, known: dict[str, str]) -> str | None:
    """The path with values for its parameters; none if it is not one to GET, or if it needs what is not known."""
    if operation is None or any(media in NO_DOCUMENT for media in content_of(operation, "200")):
        return None
    for parameter in operation.get("parameters", []):
        name = parameter["name"]
        if parameter["in"] == "path" and name in known:
            path = path.replace(f"{{{name}}}", urllib.parse.quote(known[name]))
        elif parameter.get("required"):
            return None
    return path


def content_of(operation: dict, status: str) -> dict:
    responses = operation["responses"]
    return responses.get(status, responses.get("default", {})).get("content", {})


def answer_problems(client: Client, schemas: Schemas, address: str, operation: dict) -> list[str]:
    status, media_type, answer = client.get(address)
    content = content_of(operation, str(status))
    if media_type not in content:
        return [f"{status} {media_type} is not documented; it has {', '.join(content) or 'nothing'} for this status"]
    schema = content[media_type].get("schema")
    return schemas.problems(answer, schema) if schema and answer is not None else []


class Schemas:
    """Of OpenAPI 3.1, which are JSON Schema 2020-12."""

    def __init__(self, document: dict):
        sys.path.insert(0, str(faceid_home() / LIBRARIES_FOLDER.name))
        import jsonschema

        self.checker = jsonschema.FormatChecker()
        self.resolver = jsonschema.RefResolver("", document)
        self.validator = jsonschema.Draft202012Validator
        self.reason = jsonschema.exceptions.best_match

    def problems(self, value, schema: dict) -> list[str]:
        errors = self.validator(schema, resolver=self.resolver, format_checker=self.checker).iter_errors(value)
        reasons = [self.reason([error]) for error in errors]  # of several schemas that are allowed, the one that fits best
        return [f"{'/'.join(map(str, error.absolute_path)) or 'the value'}: {error.message[:300]}" for error in reasons]


def examples(node, path: str = "") -> Iterator[tuple[str, dict, object]]:
    """Every example with its schema: of a parameter or a body the schema is beside it, of a schema it is the schema itself."""
    if isinstance(node, list):
        for number, item in enumerate(node):
            yield from examples(item, f"{path}/{number}")
    if not isinstance(node, dict):
        return
    if not path.endswith("/properties"):  # there, `example` would be the name of a field
        schema = node.get("schema", node)
        listed = node.get("examples", [])
        listed = [item.get("value") for item in listed.values()] if isinstance(listed, dict) else listed
        for example in ([node["example"]] if "example" in node else []) + listed:
            yield path, schema, example
    for key, value in node.items():
        if key not in ("example", "examples") or path.endswith("/properties"):
            yield from examples(value, f"{path}/{key}")
