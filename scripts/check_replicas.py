"""Two servers on one database under eight clients that enroll, rename and delete; then every answer is compared.

    make build
    python3 scripts/check_replicas.py --photos ../shared/data/lfw100 --operations 10000

Starts three servers: one with the private Postgres and one beside it search in memory, a third searches in Postgres by
an exact scan. After all operations 500 probes are identified by all three; the answers must be equal, byte for byte.
Needs Python's standard library only.
"""
import argparse
import http.client
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 8
PORTS = (9181, 9182, 9183)


class Client:
    """A connection to one server that stays open."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method, path, body=None, media_type="application/json"):
        headers = {"content-type": media_type} if body is not None else {}
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


def start(binary, port, data_dir, *arguments):
    command = [binary, "serve", "--embedder", "fast", "--log", "warn", "--bind", f"127.0.0.1:{port}", "--data-dir", data_dir, *arguments]
    server = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            if Client(port).ask("GET", "/readyz")[0] == 200:
                return server
        except OSError:
            pass
        if server.poll() is not None:
            sys.exit(f"the server at port {port} ended with {server.returncode}")
        time.sleep(0.1)
    sys.exit(f"the server at port {port} does not become ready")


def work(number, operations, photos, counts):
    """One client: its operations concern subjects of its own, at one of the two servers after the other."""
    choose = random.Random(number)
    clients = [Client(PORTS[0]), Client(PORTS[1])]
    subjects = []
    for step in range(operations):
        client = clients[choose.randrange(2)]
        kind = choose.choice(("enroll", "rename", "delete")) if len(subjects) > 20 else "enroll"
        if kind == "enroll":
            new = choose.random() < 0.7 or not subjects
            name = f"client {number} step {step}" if new else choose.choice(subjects)
            path = f"/enroll?face=largest&on_duplicate=allow&subject={name.replace(' ', '%20')}"
            status, answer = client.ask("POST", path, choose.choice(photos), "image/jpeg")
            expected = 201
            if new:
                subjects.append(answer["subject_id"])
        elif kind == "rename":
            body = json.dumps({"name": f"client {number} renamed {uuid.uuid4()}"})
            status, answer = client.ask("PATCH", f"/subjects/{choose.choice(subjects)}", body)
            expected = 200
        else:
            subject = subjects.pop(choose.randrange(len(subjects)))
            status, answer = client.ask("DELETE", f"/subjects/{subject}")
            expected = 200
        if status != expected:
            sys.exit(f"{kind}: {status} {answer}")
        counts[kind] = counts.get(kind, 0) + 1


def made_embeddings(count, dimension=512):
    choose = random.Random(99)
    return [[choose.gauss(0, 1) for _ in range(dimension)] for _ in range(count)]


def compare(photos):
    """How many of the answers are equal at all three servers, and how many were asked for."""
    clients = [Client(port) for port in PORTS]
    probes = [face["embedding"] for photo in photos for face in clients[0].ask("POST", "/embed", photo, "image/jpeg")[1]["faces"]]
    probes = (probes + made_embeddings(500))[:500]
    equal = 0
    for probe in probes:
        body = json.dumps({"embedding": probe, "top_k": 100})
        answers = [client.ask("POST", "/identify/embedding", body) for client in clients]
        assert all(status == 200 for status, _ in answers), answers
        equal += answers[0] == answers[1] == answers[2]
    return equal, len(probes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder with folders of JPEGs")
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/faceid")
    arguments = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(arguments.photos.glob("*/*.jpg"))]
    with tempfile.TemporaryDirectory(prefix="faceid-a-") as own, tempfile.TemporaryDirectory(prefix="faceid-b-") as other:
        database = f"postgres://faceid@localhost/faceid?host={own}/run"
        servers = [start(arguments.binary, PORTS[0], own, "--search", "resident")]
        for port, place in ((PORTS[1], "resident"), (PORTS[2], "pgvector")):
            servers.append(start(arguments.binary, port, other, "--database-url", database, "--search", place))
        try:
            began, counts = time.monotonic(), {}
            each = arguments.operations // CLIENTS
            threads = [threading.Thread(target=work, args=(n, each, photos, counts)) for n in range(CLIENTS)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            took = time.monotonic() - began
            done = sum(counts.values())
            print(f"{done} operations in {took:.0f} s: {counts}")
            time.sleep(1)
            equal, asked = compare(photos)
            places = [Client(port).ask("GET", "/galleries/default")[1] for port in PORTS]
            print([place["search"]["place"] for place in places], "subjects:", places[0]["subjects"])
            print(f"{equal} of {asked} answers are equal at all three servers")
            sys.exit(0 if equal == asked and done == each * CLIENTS else 1)
        finally:
            [server.terminate() for server in reversed(servers)]
            [server.wait() for server in servers]


if __name__ == "__main__":
    main()
