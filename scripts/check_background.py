"""Long work beside requests, at size: erasing a gallery, merging two subjects, retiring a model, while others enroll and identify.

    make build
    python3 scripts/check_background.py --people 1000000
    python3 scripts/check_background.py --people 100000 --check galleries
    python3 scripts/check_background.py --check start

`erase`: two servers on one database, a gallery of so many people with embeddings of two models, and another one to which clients
enroll and identify all the time (by embedding, and by photos with `--photos`). Then the large gallery is deleted: how long that
takes to be accepted, whether anybody of it is found from then on at either server, how long the rows take to go, how the requests
beside it do, with one server killed in the middle. The same for a merge of two subjects of 10,000 faces, and for retiring a model.
`galleries`: 10,000 galleries of which one is written to all the time; how long until each is reviewed.
`start`: 20,000 chips to embed, three of them spoiled; when /healthz and /readyz answer, and what is set aside.

Needs numpy; `psql` of the private PostgreSQL loads the people.
"""
import argparse
import atexit
import base64
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("FACEID_HOME", Path.home() / ".cache" / "faceid"))
PORTS = (9191, 9192)
DEFAULT = "00000000-0000-7000-8000-000000000000"


class Client:
    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.asked = time.monotonic()

    def ask(self, method, path, body=None, media_type="application/json"):
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        # The server closes connections that are idle for longer.
        if time.monotonic() - self.asked > 10:
            self.connection.close()
        self.asked = time.monotonic()
        self.connection.request(method, path, body, {"content-type": media_type} if body is not None else {})
        answer = self.connection.getresponse()
        data = answer.read()
        is_json = answer.getheader("content-type", "").split(";")[0].endswith("json")
        return answer.status, json.loads(data) if is_json else data


def spawn(binary, port, data_dir, *arguments):
    command = [binary, "serve", "--log", "warn", "--bind", f"127.0.0.1:{port}", "--data-dir", data_dir, *arguments]
    server = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    # However this ends, nothing goes on.
    atexit.register(server.kill)
    return server


def until_ready(server, port, path="/readyz"):
    began = time.monotonic()
    while server.poll() is None:
        try:
            if Client(port).ask("GET", path)[0] == 200:
                return time.monotonic() - began
        except OSError:
            pass
        time.sleep(0.02)
    sys.exit(f"the server at port {port} ended with {server.returncode}")


def psql(data_dir, sql):
    """Runs statements; the lines that they print."""
    program = next(iter(sorted(HOME.glob("postgres*/bin/psql"))), "psql")
    command = [str(program), "-h", str(Path(data_dir).resolve() / "run"), "-U", "faceid", "-d", "faceid", "-qAt", "-v", "ON_ERROR_STOP=1"]
    done = subprocess.run(command, input=sql, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"psql: {done.stderr}")
    return done.stdout.splitlines()


def make_people(data_dir, gallery, people, faces_each=1, models=None):
    """People of random vectors, loaded past the triggers, which would take hours; what they keep true is written as well."""
    models = models or [psql(data_dir, "select id from models where state = 'active'")[0]]
    psql(data_dir, f"""
        insert into galleries (id, name) values ('{gallery}', 'g-{gallery}') on conflict do nothing;
        create temp table made as select gen_random_uuid() as subject, n from generate_series(1, {people}) n;
        insert into subjects (id, gallery_id, name) select subject, '{gallery}', 'made ' || n from made;
        create temp table shown as select gen_random_uuid() as face, subject from made, generate_series(1, {faces_each});
        insert into faces (id, gallery_id, subject_id) select face, '{gallery}', subject from shown;""")
    for model in models:
        # A thousand directions that each person is moved away from by a little: as many dot products as real ones, quickly made.
        psql(data_dir, f"""
            alter table embeddings disable trigger user;
            alter table templates disable trigger user;
            create temp table base as select n, (select array_agg(random() - 0.5)::float4[]::vector
                from generate_series(1, (select dimension from models where id = '{model}')) where n >= 0) as v from generate_series(0, 999) n;
            insert into embeddings (face_id, model_id, gallery_id, subject_id, embedding)
                select f.id, '{model}', f.gallery_id, f.subject_id, l2_normalize(a.v + b.v)::halfvec
                from faces f join base a on a.n = abs(hashtext(f.id::text)) % 1000 join base b on b.n = abs(hashtext('x' || f.id::text)) % 1000
                where f.gallery_id = '{gallery}';
            insert into templates (model_id, gallery_id, subject_id, embedding, faces, face_id)
                select model_id, gallery_id, subject_id, l2_normalize(avg(embedding)), count(*),
                case when count(*) = 1 then (array_agg(face_id))[1] end from embeddings
                where gallery_id = '{gallery}' and model_id = '{model}' group by 1, 2, 3;
            alter table embeddings enable trigger user;
            alter table templates enable trigger user;
            insert into changes (gallery_id) values ('{gallery}');""")
    psql(data_dir, "vacuum analyze;")


def embedding_of(data_dir, gallery):
    text = psql(data_dir, "select embedding::text from embeddings e join models m on m.id = e.model_id and m.state = 'active' "
                          f"where gallery_id = '{gallery}' limit 1")[0]
    return json.loads(text)


class Load:
    """Clients that identify by embedding in a gallery, and create and delete subjects in it, at both servers."""

    def __init__(self, gallery, probe, photos, ports):
        self.gallery, self.probe, self.photos, self.ports = gallery, probe, photos, ports
        self.times, self.failed, self.going = {"identify": [], "enroll": []}, [], True
        self.threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(4)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        choose, clients = random.Random(number), {}
        while self.going:
            port = choose.choice(self.ports)
            what = "enroll" if self.photos and choose.random() < 0.5 else "identify"
            began = time.monotonic()
            try:
                client = clients.get(port) or clients.setdefault(port, Client(port))
                if what == "identify":
                    status, _ = client.ask("POST", "/identify/embedding", {"embedding": self.probe, "gallery": self.gallery})
                else:
                    boundary = uuid.uuid4().hex
                    photo = choose.choice(self.photos)
                    fields = {"subject": f"p{choose.randrange(200)}", "gallery": self.gallery, "on_duplicate": "allow", "face": "largest", "quality": "any"}
                    parts = [f'--{boundary}\r\ncontent-disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode() for n, v in fields.items()]
                    parts.append(f'--{boundary}\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'.encode())
                    body = b"".join([*parts, photo, f"\r\n--{boundary}--\r\n".encode()])
                    status, _ = client.ask("POST", "/enroll", body, f"multipart/form-data; boundary={boundary}")
                if status not in (200, 201):
                    self.failed.append((what, status))
                self.times[what].append((began, time.monotonic() - began))
            except (OSError, http.client.HTTPException):
                clients.pop(port, None)
                if port in self.ports:
                    self.failed.append((what, "connection"))
                time.sleep(0.05)
            time.sleep(0.02)

    def between(self, begin, end):
        """Median and p99 of each kind, in milliseconds, and how many."""
        told = {}
        for what, times in self.times.items():
            of = sorted(1000 * took for began, took in list(times) if begin <= began < end)
            if of:
                told[what] = {"count": len(of), "median": round(statistics.median(of), 1), "p99": round(of[int(0.99 * (len(of) - 1))], 1)}
        return told

    def stop(self):
        self.going = False
        for thread in self.threads:
            thread.join()


def job_done(client, job, patience=7200):
    began = time.monotonic()
    while time.monotonic() - began < patience:
        status, answer = client.ask("GET", f"/admin/jobs/{job}")
        if status == 200 and answer["state"] in ("succeeded", "failed", "cancelled"):
            return answer
        time.sleep(0.5)
    sys.exit("a job does not end")


def tell(**figures):
    print(json.dumps(figures), flush=True)


def check_erase(arguments):
    photos = [path.read_bytes() for path in sorted(Path(arguments.photos).glob("*/*"))[:100]] if arguments.photos else []
    binary = ROOT / arguments.binary
    with tempfile.TemporaryDirectory(prefix="faceid-background-") as data, tempfile.TemporaryDirectory() as other:
        options = ["--job-lease", "5"]
        first = spawn(binary, PORTS[0], data, *options)
        until_ready(first, PORTS[0])
        large, small = str(uuid.uuid4()), str(uuid.uuid4())
        models = psql(data, "select id from models where state = 'active'")
        psql(data, "insert into models (id, name, sha256, dimension, state) values (gen_random_uuid(), 'second', sha256('second'), 128, 'former')")
        second_model = psql(data, "select id from models where name = 'second'")[0]
        began = time.monotonic()
        make_people(data, small, 1000)
        make_people(data, large, arguments.people, 1, [*models, second_model])
        tell(made=arguments.people, seconds=round(time.monotonic() - began))
        # Read anew, as the people came past the log.
        first.terminate()
        first.wait()
        first = spawn(binary, PORTS[0], data, *options)
        until_ready(first, PORTS[0])
        url = f"postgres://faceid@localhost/faceid?host={Path(data).resolve() / 'run'}"
        second = spawn(binary, PORTS[1], other, "--database-url", url, *options)
        until_ready(second, PORTS[1])
        clients = [Client(port) for port in PORTS]
        probe = embedding_of(data, large)
        for client in clients:
            status, answer = client.ask("POST", "/identify/embedding", {"embedding": probe, "gallery": large})
            assert status == 200 and answer["matches"], answer
        load = Load(small, embedding_of(data, small), photos, list(PORTS))
        time.sleep(5)
        quiet = time.monotonic()
        time.sleep(arguments.quiet)
        erasing = time.monotonic()
        status, job = clients[0].ask("DELETE", f"/galleries/{large}")
        accepted = time.monotonic() - erasing
        assert status == 202, (status, job)
        found = [client.ask("POST", "/identify/embedding", {"embedding": probe, "gallery": large})[0] for client in reversed(clients)]
        tell(accepted_ms=round(1000 * accepted, 1), found_after=found)
        time.sleep(arguments.quiet)
        # One server dies in the middle.
        killed = time.monotonic()
        load.ports = [PORTS[0]]
        second.send_signal(signal.SIGKILL)
        second.wait()
        time.sleep(5)
        second = spawn(binary, PORTS[1], other, "--database-url", url, *options)
        until_ready(second, PORTS[1])
        load.ports = list(PORTS)
        back = time.monotonic()
        answer = job_done(clients[0], job["id"])
        ended = time.monotonic()
        left = psql(data, f"select (select count(*) from faces where gallery_id = '{large}'), (select count(*) from templates where gallery_id = '{large}')")
        tell(what="erase", state=answer["state"], result=answer["result"], seconds=round(ended - erasing), left=left[0])
        tell(what="requests", quiet=load.between(quiet, erasing), erasing=load.between(erasing, killed), after=load.between(back, ended), failed=load.failed[:5], failures=len(load.failed))
        # Merging subjects of 10,000 faces.
        merged = str(uuid.uuid4())
        make_people(data, merged, 2, 10_000)
        quiet = time.monotonic()
        time.sleep(arguments.quiet)
        merging = time.monotonic()
        status, job = clients[0].ask("POST", f"/subjects/made%201/merge?gallery={merged}", {"subject": "made 2"})
        accepted = time.monotonic() - merging
        assert status == 202, (status, job)
        answer = job_done(clients[0], job["id"])
        ended = time.monotonic()
        faces = clients[0].ask("GET", f"/subjects/made%201?gallery={merged}")[1]["faces"]
        tell(what="merge", accepted_ms=round(1000 * accepted, 1), state=answer["state"], faces=faces, seconds=round(ended - merging), quiet=load.between(quiet, merging), merging=load.between(merging, ended))
        # Retiring a model that has as many embeddings as there are people.
        make_people(data, str(uuid.uuid4()), arguments.people, 1, [*models, second_model])
        quiet = time.monotonic()
        time.sleep(arguments.quiet)
        retiring = time.monotonic()
        status, job = clients[0].ask("POST", "/admin/models/second/retire", {"force": True})
        accepted = time.monotonic() - retiring
        assert status == 202, (status, job)
        answer = job_done(clients[0], job["id"])
        ended = time.monotonic()
        left = psql(data, f"select count(*) from templates where model_id = '{second_model}'")[0]
        tell(what="retire", accepted_ms=round(1000 * accepted, 1), state=answer["state"], result=answer["result"], left=left, seconds=round(ended - retiring), quiet=load.between(quiet, retiring), retiring=load.between(retiring, ended))
        tell(failures=len(load.failed), some=load.failed[:5])
        load.stop()
        for server in (second, first):
            server.terminate()
            server.wait()


def check_galleries(arguments):
    binary = ROOT / arguments.binary
    photos = [path.read_bytes() for path in sorted(Path(arguments.photos).glob("*/*"))[:100]]
    with tempfile.TemporaryDirectory(prefix="faceid-background-") as data:
        server = spawn(binary, PORTS[0], data, "--embedder", "fast")
        until_ready(server, PORTS[0])
        model = psql(data, "select id from models where state = 'active'")[0]
        load = Load("default", [1.0] * 512, photos, [PORTS[0]])
        began = time.monotonic()
        psql(data, f"""
            create temp table made as select gen_random_uuid() as gallery, n from generate_series(1, {arguments.galleries}) n;
            insert into galleries (id, name) select gallery, 'g' || n from made;
            create temp table people as select gen_random_uuid() as subject, gen_random_uuid() as face, gallery, k from made, generate_series(1, 3) k;
            insert into subjects (id, gallery_id, name) select subject, gallery, 'made ' || k from people;
            insert into faces (id, gallery_id, subject_id) select face, gallery, subject from people;
            insert into embeddings (face_id, model_id, gallery_id, subject_id, embedding)
                select face, '{model}', gallery, subject, (select l2_normalize(array_agg(random() - 0.5)::float4[]::vector::halfvec)
                from generate_series(1, 512) where face is not null) from people;""")
        loaded = time.monotonic()
        tell(galleries=arguments.galleries, loaded_seconds=round(loaded - began))
        while True:
            waiting = int(psql(data, f"select count(*) from review_queue where gallery_id <> '{DEFAULT}'")[0])
            tell(seconds=round(time.monotonic() - loaded), waiting=waiting)
            if waiting == 0:
                break
            time.sleep(10)
        tell(reviewed_seconds=round(time.monotonic() - loaded), requests=load.between(loaded, time.monotonic()), failures=len(load.failed))
        load.stop()
        server.terminate()
        server.wait()


def check_start(arguments):
    binary = ROOT / arguments.binary
    with tempfile.TemporaryDirectory(prefix="faceid-background-") as data:
        server = spawn(binary, PORTS[0], data, "--embedder", "fast")
        until_ready(server, PORTS[0])
        photos = sorted(Path(arguments.photos).glob("*/*"))[:20]
        client = Client(PORTS[0])
        for number, photo in enumerate(photos):
            client.ask("POST", "/enroll", {"subject": f"s{number}", "image": base64.b64encode(photo.read_bytes()).decode(), "face": "largest", "quality": "any", "on_duplicate": "allow"})
        psql(data, f"""
            insert into faces (id, gallery_id, subject_id, chip) select gen_random_uuid(), f.gallery_id, f.subject_id, f.chip
                from faces f, generate_series(1, {arguments.chips} / (select count(*)::int from faces)) n;
            delete from embeddings;
            update faces set chip = substr(chip, 1, 100) where id in (select id from faces order by id limit 3);""")
        server.terminate()
        server.wait()
        began = time.monotonic()
        server = spawn(binary, PORTS[0], data, "--embedder", "fast", "--background-share", str(arguments.share))
        alive = until_ready(server, PORTS[0], "/healthz")
        until_ready(server, PORTS[0])
        ready = time.monotonic() - began
        tell(alive_seconds=round(alive, 2), ready_seconds=round(ready, 2))
        while True:
            left = int(psql(data, "select count(*) from faces f where not exists (select from embeddings e where e.face_id = f.id)")[0])
            if left <= 3:
                break
            time.sleep(2)
        embedded = time.monotonic() - began
        client = Client(PORTS[0])
        items = client.ask("GET", "/admin/quarantine")[1]["items"]
        faces = int(psql(data, "select count(*) from faces")[0])
        tell(faces=faces, embedded_seconds=round(embedded), set_aside=[[item["face_id"], item["reason"]] for item in items])
        server.terminate()
        server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/faceid")
    parser.add_argument("--check", choices=["erase", "galleries", "start"], default="erase")
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--galleries", type=int, default=10_000)
    parser.add_argument("--chips", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.5, help="--background-share of the server that starts")
    parser.add_argument("--photos", help="a folder of a folder for each person")
    parser.add_argument("--quiet", type=float, default=30, help="seconds of requests without anything beside them")
    arguments = parser.parse_args()
    {"erase": check_erase, "galleries": check_galleries, "start": check_start}[arguments.check](arguments)


if __name__ == "__main__":
    main()
