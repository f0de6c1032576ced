"""Kills the server, the training or PostgreSQL at random moments of training, re-embedding and promotion.

    make build
    python3 scripts/check_jobs.py --photos ../shared/data/orl --rounds 30

Enrolls a gallery, then keeps a job going: a retraining, and when it is done, the promotion of what it made. In each round
one process, chosen by chance, gets SIGKILL after some seconds; a server that died is started again. At the end the jobs
must finish, everybody must still be enrolled and found, one model must be active, and no files may be left. Needs
Python's standard library only.
"""
import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORT = 9187
PATIENCE = 3600  # seconds that the last job, or the end of the server, may take
PEOPLE, EACH = 8, 4
FINAL = ("succeeded", "failed", "cancelled")


def ask(method, path, body=None, media_type="application/json"):
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    connection.request(method, path, body, {"content-type": media_type} if body is not None else {})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def ask_patiently(method, path, body=None):
    """While PostgreSQL or the server is coming back."""
    for _ in range(1200):
        try:
            status, answer = ask(method, path, body)
            if status < 500:
                return status, answer
        except (OSError, http.client.HTTPException, ValueError):
            pass
        time.sleep(0.1)
    sys.exit(f"no answer to {method} {path}")


def start(binary, data_dir):
    command = [binary, "serve", "--embedder", "fast", "--log", "error", "--bind", f"127.0.0.1:{PORT}", "--data-dir", data_dir]
    command += ["--job-lease", "3", "--train-threads", "1"]
    server = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    for _ in range(1200):
        try:
            if ask("GET", "/readyz")[0] == 200:
                return server
        except (OSError, http.client.HTTPException):
            pass
        if server.poll() is not None:
            return None
        time.sleep(0.1)
    sys.exit("the server does not become ready")


def restart(binary, data_dir):
    """The PostgreSQL of the server that died may take a moment to stop."""
    for _ in range(60):
        server = start(binary, data_dir)
        if server:
            return server
        time.sleep(0.5)
    sys.exit("the server does not start again")


def form(fields, image):
    boundary = uuid.uuid4().hex
    parts = [f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
             for name, value in fields.items()]
    parts.append(f'--{boundary}\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'.encode())
    return b"".join([*parts, image, f"\r\n--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def children(parent, what):
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status, command = (entry / "status").read_text(), (entry / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if f"\nPPid:\t{parent}\n" in status and any(word == what or word.endswith("/" + what) for word in command):
            found.append(int(entry.name))
    return found


def kill_one(choose, server, data_dir):
    """What was killed."""
    victim = choose.choice(["server", "training", "postgres"])
    if victim == "training":
        for pid in children(server.pid, "train"):
            os.kill(pid, signal.SIGKILL)
            return victim
        victim = "server"
    if victim == "postgres":
        try:
            os.kill(int((Path(data_dir) / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            return victim
        except (OSError, IndexError, ValueError):
            victim = "server"
    server.kill()
    server.wait(PATIENCE)
    return victim


def jobs_that_end():
    """The latest first; those of other kinds never end."""
    jobs = ask_patiently("GET", "/admin/jobs?limit=200")[1]["items"]
    return [job for job in jobs if job["kind"] in ("retrain", "promote")]


def next_job(number):
    """Goes on with the job at hand, or submits the next: what it is about."""
    jobs = jobs_that_end()
    for job in jobs:
        if job["state"] not in FINAL:
            return f'{job["kind"]} {(job["progress"] or {}).get("stage", "")}'
        if job["state"] != "succeeded":
            sys.exit(f"a job {job['state']}: {job['error']}")
    if jobs and jobs[0]["kind"] == "retrain":
        model = jobs[0]["result"]["model"]["name"]
        status, answer = ask_patiently("POST", f"/admin/models/{model}/promote", '{"force": true}')
    else:
        recipe = {"batch": {"subjects": 3, "photos": 3}, "fine_tuning": {"replay": 2}}
        body = {"steps": 12, "seed": number, "protected": [], "recipe": recipe, "name": f"made-{number}"}
        status, answer = ask_patiently("POST", "/admin/retrain", json.dumps(body))
    if status not in (200, 202):
        sys.exit(f"{status}: {answer}")
    return answer["kind"]


def check(people, data_dir):
    """Whether all is as it should be."""
    status, gallery = ask_patiently("GET", "/galleries/default")
    assert (gallery["subjects"], gallery["faces"]) == (PEOPLE, PEOPLE * EACH), gallery
    models = ask_patiently("GET", "/admin/models")[1]
    active = [model["name"] for model in models if model["state"] == "active"]
    assert len(active) == 1 and not any(model["is_secondary"] for model in models), models
    for name, files in people:
        status, answer = ask("POST", "/identify", *form({"top_k": 1}, files[0].read_bytes()))
        assert status == 200 and answer["model"] == active[0], answer
        assert answer["faces"][0]["matches"][0]["subject"] == name, answer
    left = list((Path(data_dir) / "jobs").glob("*"))
    assert not left, left
    return active[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target/release/faceid")
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    # So that the server is stopped as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    choose = random.Random(args.seed)
    folders = sorted(folder for folder in args.photos.iterdir() if folder.is_dir())[:PEOPLE]
    people = [(folder.name, sorted(folder.iterdir())[:EACH]) for folder in folders]
    with tempfile.TemporaryDirectory() as data_dir:
        os.chmod(data_dir, 0o755)
        servers = [restart(args.binary, data_dir)]
        try:
            for name, files in people:
                for file in files:
                    status, answer = ask("POST", "/enroll", *form({"subject": name, "face": "largest"}, file.read_bytes()))
                    assert status == 201, answer
            for number in range(args.rounds):
                at = next_job(number)
                time.sleep(choose.uniform(0.2, 6))
                victim = kill_one(choose, servers[-1], data_dir)
                print(f"round {number + 1}: {victim} killed during {at}", flush=True)
                if victim == "server":
                    servers.append(restart(args.binary, data_dir))
            deadline = time.monotonic() + PATIENCE
            while any(job["state"] not in FINAL for job in jobs_that_end()):
                assert time.monotonic() < deadline, "the jobs do not end"
                time.sleep(0.5)
            jobs = jobs_that_end()
            assert all(job["state"] == "succeeded" for job in jobs), jobs
            time.sleep(1)
            active = check(people, data_dir)
            print(f"{len(jobs)} jobs done in {sum(job['attempts'] for job in jobs)} attempts; everybody is found by {active}")
        finally:
            servers[-1].terminate()
            servers[-1].wait(PATIENCE)


if __name__ == "__main__":
    main()
