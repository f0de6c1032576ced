"""A model is promoted and rolled back under load: nothing fails, nothing is mixed, nothing is lost.

    make build
    python3 scripts/check_upgrade.py --photos ../shared/data/lfw100 --chips 20000 --rounds 3

Starts a server, imports a gallery of `--chips` chips (those of the photos, over and over, each as a subject of its own),
and lets the server embed them. Then clients identify in a small gallery and enroll into another, while another model (the
same network, fed with red for blue) is promoted and rolled back. Every answer must name one of the two models and be the
one that this model gives when nothing else happens. In the end every face has its embedding. `--kill` ends the server
with SIGKILL once during the first promotion, and starts it again. Needs Python's standard library only.
"""
import argparse
import base64
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORT = 9191
PATIENCE = 3600  # seconds that anything may take
SAME = 2e-3  # similarities of one pair differ by less, whatever shares their batch
MODELS = ("mobilefacenet-512", "red-for-blue")


class Client:
    """A connection that stays open; the server may die meanwhile."""

    def __init__(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=300)

    def ask(self, method, path, body=None, media_type="application/json"):
        headers = {"content-type": media_type} if body is not None else {}
        try:
            self.connection.request(method, path, body, headers)
            answer = self.connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise

    def expect(self, status, *request):
        got, answer = self.ask(*request)
        if got != status:
            raise AssertionError(f"{request[:2]}: {got} {answer}")
        return answer


def start(binary, data_dir, share):
    command = [binary, "serve", "--embedder", "fast", "--log", "warn", "--bind", f"127.0.0.1:{PORT}", "--data-dir", data_dir, "--search", "resident"]
    command += ["--background-share", share, "--job-lease", 3]
    server = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    until(lambda: Client().ask("GET", "/readyz")[0] == 200 or server.poll() is not None, 0.1)
    if server.poll() is not None:
        sys.exit(f"the server ended with {server.returncode}")
    return server


def until(done, pause=0.5):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if done():
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(pause)
    sys.exit(f"not done within {PATIENCE} s")


def path(route, **query):
    return f"{route}?{urllib.parse.urlencode(query)}"


def gist(answer):
    """The model, and the matches of the largest face."""
    return answer["model"], [(hit["subject"], hit["similarity"]) for hit in answer["faces"][0]["matches"]]


def agree(a, b):
    return len(a) == len(b) and a[0][0] == b[0][0] and all(abs(x[1] - y[1]) < SAME for x, y in zip(a, b))


class Load:
    """Clients that identify and enroll for as long as it lasts."""

    def __init__(self, probes, identifying, enrolling):
        self.probes, self.stopping, self.down = probes, False, False
        self.answers, self.enrolled, self.failures = [], [], []
        kinds = [self.identify] * identifying + [self.enroll] * enrolling
        self.threads = [threading.Thread(target=self.run, args=(kind, number), daemon=True) for number, kind in enumerate(kinds)]
        [thread.start() for thread in self.threads]

    def run(self, kind, number):
        client, step = Client(), 0
        while not self.stopping:
            probe = (number * 7 + step) % len(self.probes)
            step += 1
            try:
                kind(client, probe, f"client {number} step {step}")
            except (OSError, http.client.HTTPException) as error:
                # Only while the server is dead may this be, which is on purpose.
                if not self.down:
                    self.failures.append(repr(error))
                time.sleep(0.2)
            except AssertionError as error:
                # Nor if it is starting again, and says so.
                if not (self.down and "'starting'" in str(error)):
                    self.failures.append(str(error))
                time.sleep(0.2)

    def identify(self, client, probe, _):
        answer = client.expect(200, "POST", path("/identify", gallery="stable"), self.probes[probe], "image/jpeg")
        self.answers.append((time.monotonic(), probe, *gist(answer)))

    def enroll(self, client, probe, subject):
        request = path("/enroll", gallery="growing", subject=subject, face="largest", on_duplicate="allow")
        client.expect(201, "POST", request, self.probes[probe], "image/jpeg")
        self.enrolled.append(time.monotonic())

    def stop(self):
        self.stopping = True
        [thread.join(PATIENCE) for thread in self.threads]

    def rates(self, begin, end):
        inside = lambda times: sum(begin <= at < end for at in times) / (end - begin)
        return inside([answer[0] for answer in self.answers]), inside(self.enrolled)


def import_chips(binary, data_dir, client, count):
    """Faces that are chips alone, so that the server embeds them."""
    faces = client.expect(200, "GET", path("/faces", gallery="stable", limit=200))["items"]
    chips = []
    for face in faces:
        client.connection.request("GET", f"/faces/{face['id']}/chip")
        chips.append(base64.b64encode(client.connection.getresponse().read()).decode())
    file = Path(data_dir) / "chips.jsonl"
    with file.open("w") as out:
        for number in range(count):
            out.write(json.dumps({"subject": f"person {number}", "chip": chips[number % len(chips)]}) + "\n")
    command = [binary, "import", file, "--gallery", "large", "--data-dir", data_dir]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)


def import_model(client, weights):
    # A protobuf may say a field again, here the version of its producer: another file, the same network.
    content = weights.read_bytes() + b"\x1a\x05other"
    request = path("/admin/models", name=MODELS[1], threshold=0.41, channels="bgr")
    client.expect(201, "POST", request, content, "application/octet-stream")


def change(client, route, kill=None):
    """Promotes or rolls back; the job, and the seconds that it took."""
    began = time.monotonic()
    job = client.expect(202, "POST", route, json.dumps({}))
    if kill:
        kill()
        client = Client()

    def finished():
        nonlocal job
        job = client.expect(200, "GET", f"/admin/jobs/{job['id']}")
        return job["state"] in ("succeeded", "failed", "cancelled")

    until(finished, 0.1)
    assert job["state"] == "succeeded", job
    return job, began, time.monotonic()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder with folders of JPEGs")
    parser.add_argument("--chips", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.5, help="--background-share of the server")
    parser.add_argument("--kill", action="store_true", help="kill the server once, in the middle of the first promotion")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/faceid")
    parser.add_argument("--weights", type=Path, default=ROOT / ".deps/weights/mobilefacenet-512.onnx")
    arguments = parser.parse_args()
    people = [sorted(folder.glob("*.jpg")) for folder in sorted(arguments.photos.iterdir())]
    probes = [photos[-1].read_bytes() for photos in people]
    with tempfile.TemporaryDirectory(prefix="faceid-upgrade-") as data_dir:
        server = [start(arguments.binary, data_dir, arguments.share)]
        try:
            ok = check(arguments, data_dir, server, people, probes)
        finally:
            server[0].terminate()
            server[0].wait(PATIENCE)
    sys.exit(0 if ok else 1)


def check(arguments, data_dir, server, people, probes):
    client = Client()
    for gallery in ("stable", "growing", "large"):
        client.expect(201, "POST", "/galleries", json.dumps({"name": gallery}))
    for photos in people:
        for photo in photos[:2]:
            request = path("/enroll", gallery="stable", subject=photo.parent.name, face="largest")
            client.expect(201, "POST", request, photo.read_bytes(), "image/jpeg")
    began = time.monotonic()
    import_chips(arguments.binary, data_dir, client, arguments.chips)
    until(lambda: client.expect(200, "GET", f"/admin/models/{MODELS[0]}")["missing"] == 0)
    print(f"{arguments.chips} chips imported and embedded in {time.monotonic() - began:.0f} s")
    import_model(client, arguments.weights)

    def kill():
        until(lambda: client.expect(200, "GET", f"/admin/models/{MODELS[1]}")["embeddings"] > arguments.chips / 10, 0.1)
        load.down = True
        server[0].kill()
        server[0].wait(PATIENCE)
        server[0] = start(arguments.binary, data_dir, arguments.share)
        load.down = False

    load = Load(probes, identifying=2, enrolling=1)
    idle = time.monotonic()
    time.sleep(10)
    print(f"before: {load.rates(idle, time.monotonic())[0]:.1f} identified/s, {load.rates(idle, time.monotonic())[1]:.1f} enrolled/s")
    expected, ok = {}, True
    for number in range(arguments.rounds * 2):
        route = "/admin/rollback" if number else f"/admin/models/{MODELS[1]}/promote"
        job, begin, end = change(Client(), route, kill if arguments.kill and number == 0 else None)
        identified, enrolled = load.rates(begin, end)
        print(f"to {job['result']['model']}: {end - begin:.1f} s, {job['result']['embedded']} embedded, attempts {job['attempts']}; "
              f"meanwhile {identified:.1f} identified/s, {enrolled:.1f} enrolled/s")
        for probe, photo in enumerate(probes):
            model, matches = gist(Client().expect(200, "POST", path("/identify", gallery="stable"), photo, "image/jpeg"))
            ok &= model == job["result"]["model"] and agree(expected.setdefault((model, probe), matches), matches)
        time.sleep(2)
    after = time.monotonic()
    time.sleep(10)
    print(f"after: {load.rates(after, time.monotonic())[0]:.1f} identified/s")
    load.stop()
    mixed = [answer for answer in load.answers if not agree(expected[answer[2], answer[1]], answer[3])]
    by_model = {model: sum(answer[2] == model for answer in load.answers) for model in MODELS}
    active = Client().expect(200, "GET", f"/admin/models/{MODELS[0]}")
    faces = sum(Client().expect(200, "GET", f"/galleries/{gallery}")["faces"] for gallery in ("stable", "growing", "large", "default"))
    print(f"{len(load.answers)} identified {by_model}, {len(load.enrolled)} enrolled; {len(load.failures)} failed, {len(mixed)} mixed")
    print(f"{faces} faces, {active['embeddings']} embedded by the active model, {active['missing']} missing")
    print(*load.failures[:5], sep="\n")
    lost = arguments.chips + 2 * len(people) + len(load.enrolled) - faces
    return ok and not load.failures and not mixed and lost <= 0 and active["missing"] == 0 and active["embeddings"] == faces


if __name__ == "__main__":
    main()
