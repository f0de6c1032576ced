"""Two servers on each kind of database that people have: what works, and what is refused by which sentence, as a table.

    make build
    python3 scripts/check_databases.py --photos ../shared/data/lfw100

Sets up PostgreSQL servers from the programs of Debian's packages (`postgresql-NN` with pgvector, `pgbouncer`, `openssl`) and
of `make setup`, whatever is there, below a temporary folder, and stops them again. On each database two servers of faceid
enroll, identify and promote a model, and each must see what the other did. What could not be tried for want of programs is
listed as such. `--only TEXT` tries the kinds whose name has it. Needs Python's standard library only.
"""
import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 300  # seconds that a server may take to show something
CLUSTER = ("listen_addresses=127.0.0.1", "wal_level=replica", "max_wal_senders=8", "fsync=off", "jit=off")
NEW_MODEL = "red-for-blue"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(done, what, patience=PATIENCE):
    """The first answer of `done` that is not false."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if answer := done():
                return answer
        time.sleep(0.2)
    raise AssertionError(f"not within {patience} s: {what}")


def account():
    """Whom PostgreSQL runs as: it refuses to be root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": ()} if os.geteuid() == 0 else {}


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise AssertionError(f"{command[0]}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


class Postgres:
    """A server with databases of its own, reached by TCP as the superuser `admin`."""

    def __init__(self, programs, folder, copied_from=None):
        self.programs, self.folder, self.port = programs, folder, free_port()
        if copied_from is None:
            run(programs / "initdb", "-D", folder, "-U", "admin", "--encoding=UTF8", "--locale=C", "--auth=trust", cwd="/", **account())
        else:
            run(programs / "pg_basebackup", "-D", folder, "-R", "-X", "stream", "--checkpoint=fast", "-d", copied_from.url("postgres"), cwd="/", **account())
        self.process = None

    def start(self, *settings):
        command = [self.programs / "postgres", "-D", self.folder, "-p", self.port, "-c", f"unix_socket_directories={self.folder}"]
        for setting in (*CLUSTER, *settings):
            command += ["-c", setting]
        log = open(self.folder.parent / f"{self.folder.name}.log", "a")
        self.process = subprocess.Popen([str(part) for part in command], cwd="/", stdout=log, stderr=log, **account())
        until(lambda: self.answers(), "PostgreSQL answers")
        return self

    def answers(self):
        try:
            return self.sql("postgres", "select 1") == "1"
        except AssertionError:
            return False

    def stop(self, at_once=False):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self.process.wait()

    def url(self, database, role="admin", **parameters):
        query = urllib.parse.urlencode(parameters)
        return f"postgres://{role}@127.0.0.1:{self.port}/{database}{'?' + query if query else ''}"

    def sql(self, database, *statements):
        said = []
        for statement in statements:
            said.append(run(self.programs / "psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database)))
        return said[-1]

    def database(self, name, *statements):
        self.sql("postgres", f"create database {name}")
        if statements:
            self.sql(name, *statements)
        return name

    def versions(self):
        """Of the server, and of the pgvector that it offers, if any."""
        version = self.sql("postgres", "select split_part(current_setting('server_version'), ' ', 1)")
        vector = self.sql("postgres", "select default_version from pg_available_extensions where name = 'vector'")
        return version, vector


class Mover:
    """An address that leads to one server and later to another, as one of a failover does."""

    def __init__(self, target):
        self.target, self.open = target, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                self.open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=pair, daemon=True).start()

    @staticmethod
    def carry(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def lead_to(self, target):
        self.target = target

    def close(self):
        self.listener.close()


class Server:
    """A server of faceid on a database."""

    def __init__(self, trial, environment):
        self.port = free_port()
        command = [trial.binary, "serve", "--embedder", "fast", "--log", "warn", "--bind", f"127.0.0.1:{self.port}", "--job-lease", "3"]
        command += ["--model-store", trial.models, "--data-dir", tempfile.mkdtemp(dir=trial.folder)]
        self.log = open(trial.folder / f"server-{self.port}.log", "w+")
        self.process = subprocess.Popen([str(part) for part in command], env=os.environ | environment, stdout=self.log, stderr=self.log)
        until(lambda: self.process.poll() is not None or self.ask("GET", "/readyz")[0] == 200, "a server is ready")
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended: {self.said()}")

    def said(self):
        """Its last words."""
        self.log.seek(0)
        return self.log.read().strip()[-300:]

    def ask(self, method, path, body=None, media_type="application/octet-stream"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"content-type": media_type} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def expect(self, status, *request):
        got, answer = self.ask(*request)
        if got != status:
            raise AssertionError(f"{request[:2]}: {got} {answer}; {self.said()}")
        return answer

    def enroll(self, subject, photo):
        query = urllib.parse.urlencode({"subject": subject, "face": "largest"})
        return self.expect(201, "POST", f"/enroll?{query}", photo, "image/jpeg")

    def identify(self, photo):
        """The best match of the largest face, and the model."""
        answer = self.expect(200, "POST", "/identify?max_faces=1", photo, "image/jpeg")
        matches = answer["faces"][0]["matches"]
        return (matches[0]["subject"] if matches else None), answer["model"]

    def finds(self, subject, photo, model=None):
        found, by = self.identify(photo)
        return found == subject and model in (None, by)

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Trial:
    """What is tried on each database, with which program and photos."""

    def __init__(self, binary, photos, weights, folder):
        self.binary, self.folder, self.models = binary, folder, folder / "models"
        # A protobuf may say a field again, here the version of its producer: another file, the same network.
        self.weights = (weights / "mobilefacenet-512.onnx").read_bytes() + b"\x1a\x05other"
        people = sorted(path for path in photos.iterdir() if path.is_dir())
        self.people = [(person.name, [file.read_bytes() for file in sorted(person.iterdir())[:2]]) for person in people[:4]]

    @contextlib.contextmanager
    def servers(self, environment, count=2):
        started = []
        try:
            # One after the other: the first migrates and registers its model.
            for _ in range(count):
                started.append(Server(self, environment))
            yield started
        finally:
            for server in started:
                server.stop()

    def works(self, environment):
        """Enrols, identifies and promotes at two servers; says what was seen."""
        shutil.rmtree(self.models, ignore_errors=True)
        (ada, ada_photos), (bob, bob_photos), *_ = self.people
        with self.servers(environment) as (first, second):
            first.enroll(ada, ada_photos[0])
            until(lambda: first.finds(ada, ada_photos[1]), "what was enrolled is found")
            until(lambda: second.finds(ada, ada_photos[1]), "the second server finds it")
            query = urllib.parse.urlencode({"name": NEW_MODEL, "threshold": 0.41, "channels": "bgr"})
            # A busy machine may take longer to try a network out than it has for that.
            until(lambda: first.ask("POST", f"/admin/models?{query}", self.weights)[0] in (200, 201), "a model is imported")
            first.expect(202, "POST", f"/admin/models/{NEW_MODEL}/promote", b'{"force": true}', "application/json")
            for server in (first, second):
                until(lambda server=server: server.finds(ada, ada_photos[1], NEW_MODEL), "the promotion is followed")
            second.enroll(bob, bob_photos[0])
            until(lambda: first.finds(bob, bob_photos[1], NEW_MODEL), "the first server finds what the second enrolled")
        return "yes", "yes", "yes", ""

    def refuses(self, environment):
        """The sentence by which a start is refused."""
        done = subprocess.run([str(self.binary), "migrate"], env=os.environ | environment, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode == 0:
            raise AssertionError("it was not refused")
        return done.stderr.strip().removeprefix("faceid: ").replace("\n", " ")


def plain(trial, postgres, _):
    return trial.works({"DATABASE_URL": postgres.url(postgres.database("plain"))})


def extension_elsewhere(trial, postgres, _):
    name = postgres.database("elsewhere", "create schema extensions", "create extension vector schema extensions")
    return trial.works({"DATABASE_URL": postgres.url(name)})


def own_schema(trial, postgres, _):
    """Two faceids in one database: neither sees or disturbs the other."""
    url = postgres.url(postgres.database("shared"))
    one, other = ({"DATABASE_URL": url, "FACEID_DATABASE_SCHEMA": schema} for schema in ("one", "Other one"))
    trial.works(one)
    (_, photos), *_ = trial.people
    with trial.servers(other, 1) as (server,):
        if server.identify(photos[1])[0] is not None:
            raise AssertionError("one schema shows in another")
    return (*trial.works(other)[:3], "two schemas side by side")


def ordinary_role(trial, postgres, _):
    """Of a role that owns nothing: tables need the administrator's leave."""
    name = postgres.database("ordinary")
    postgres.sql("postgres", "create role ordinary login")
    environment = {"DATABASE_URL": postgres.url(name, "ordinary")}
    refused = [trial.refuses(environment)]
    postgres.sql(name, "create extension vector", "grant create on database ordinary to ordinary")
    if "may not create tables" in (second := trial.refuses(environment)):
        refused.append(second)
    seen = trial.works(environment | {"FACEID_DATABASE_SCHEMA": "faceid"})
    return (*seen[:3], "before that: " + "; ".join(f"“{sentence}”" for sentence in refused))


def tls(trial, postgres, folder):
    """A certificate of an authority of one's own; then one of another, no file, and a server without TLS."""
    name = postgres.database("encrypted")
    authority, other = (make_authority(folder / name_of) for name_of in ("authority", "other"))
    key, certificate = make_certificate(folder, authority)
    without = {"DATABASE_URL": postgres.url(name, sslmode="require")}
    refused = [trial.refuses(without)]
    if not postgres.sql("postgres", "show ssl_library"):
        return "", "", "", f"NOT tried: this PostgreSQL has no TLS; with sslmode=require: “{refused[0]}”"
    postgres.stop()
    postgres.start("ssl=on", f"ssl_cert_file={certificate}", f"ssl_key_file={key}")
    url = lambda file: postgres.url(name, sslmode="verify-full", sslrootcert=file).replace("127.0.0.1", "localhost")
    refused += [trial.refuses({"DATABASE_URL": url(file)}) for file in (other / "ca.pem", folder / "missing.pem")]
    refused = [sentence.replace(str(folder), "DIR") for sentence in refused]
    seen = trial.works({"DATABASE_URL": url(authority / "ca.pem")})
    return (*seen[:3], "without TLS, another authority, no file: " + "; ".join(f"“{sentence}”" for sentence in refused))


def make_authority(folder):
    folder.mkdir()
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", f"/CN={folder.name}",
        "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
    return folder


def make_certificate(folder, authority):
    key, request, certificate = folder / "server.key", folder / "server.csr", folder / "server.pem"
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key, "-out", request)
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    run("openssl", "x509", "-req", "-in", request, "-CA", authority / "ca.pem", "-CAkey", authority / "ca.key",
        "-CAcreateserial", "-days", 2, "-extfile", folder / "names", "-out", certificate)
    if account():
        shutil.chown(key, "postgres", "postgres")
    key.chmod(0o600)
    return key, certificate


@contextlib.contextmanager
def bouncer(program, postgres, folder, database):
    port = free_port()
    (folder / "users").write_text('"admin" ""\n')
    (folder / "bouncer.ini").write_text(
        f"[databases]\n{database} = host=127.0.0.1 port={postgres.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\n"
        f"default_pool_size = 4\n")
    log = open(folder / "bouncer.log", "w")
    process = subprocess.Popen([program, str(folder / "bouncer.ini")], stdout=log, stderr=log, cwd="/", **account())
    try:
        time.sleep(1)
        yield postgres.url(database).replace(str(postgres.port), str(port))
    finally:
        process.terminate()
        process.wait()


def pooled(trial, postgres, folder, program):
    name = postgres.database(f"pooled_{folder.name.lower()}")
    with bouncer(program, postgres, folder, name) as url:
        refused = trial.refuses({"DATABASE_URL": url})
        sessions_pooled = trial.refuses({"DATABASE_URL": url, "FACEID_DATABASE_SESSION_URL": url})
        environment = {"DATABASE_URL": url, "FACEID_DATABASE_SESSION_URL": postgres.url(name), "FACEID_DATABASE_SCHEMA": "apart"}
        seen = trial.works(environment)
    return (*seen[:3], f"without the second URL: “{refused}”; with one that is pooled as well: “{sessions_pooled}”")


def failover(trial, postgres, folder):
    """The primary dies, its standby takes over at the same address."""
    name = postgres.database("surviving")
    standby = Postgres(postgres.programs, folder / "standby", copied_from=postgres).start()
    mover = Mover(postgres.port)
    (_, before), (_, after) = trial.people[2:4]
    try:
        trial.works({"DATABASE_URL": postgres.url(name)})
        refused = trial.refuses({"DATABASE_URL": standby.url(name)})
        environment = {"DATABASE_URL": postgres.url(name).replace(str(postgres.port), str(mover.port))}
        with trial.servers(environment) as servers:
            servers[0].enroll("before", before[0])
            flushed = "select pg_current_wal_flush_lsn()"
            written = postgres.sql("postgres", flushed)
            until(lambda: standby.sql("postgres", f"select pg_last_wal_replay_lsn() >= '{written}'") == "t", "the standby follows")
            postgres.stop(at_once=True)
            mover.lead_to(standby.port)
            status, answer = servers[0].ask("POST", "/enroll?subject=lost&face=largest", after[0], "image/jpeg")
            if (status, answer["code"]) != (503, "database_unavailable"):
                raise AssertionError(f"on a standby: {status} {answer}")
            standby.sql("postgres", "select pg_promote()")
            began = time.monotonic()
            enroll = lambda: servers[1].ask("POST", "/enroll?subject=after&face=largest", after[0], "image/jpeg")[0] == 201
            until(enroll, "the new primary takes enrolments")
            took = time.monotonic() - began
            for server in servers:
                until(lambda server=server: server.finds("before", before[1]), "what was enrolled before the failover is found")
                until(lambda server=server: server.finds("after", after[1]), "what was enrolled after it is found")
    finally:
        mover.close()
        standby.stop()
    remark = f"503 `database_unavailable` until the standby was promoted, enrolled {took:.1f} s after; at a start on a standby: “{refused}”"
    return "yes", "yes", "yes", remark


def kinds(pgbouncers):
    yield "plain", plain
    yield "extension in another schema", extension_elsewhere
    yield "schemas of their own", own_schema
    for program in pgbouncers:
        version = run(program, "--version").split("\n")[0]
        yield f"{version}, by transaction", lambda trial, postgres, folder, program=program: pooled(trial, postgres, folder, program)
    if not pgbouncers:
        yield "PgBouncer, by transaction", None
    yield "role without privileges", ordinary_role
    yield "TLS, verify-full", tls if shutil.which("openssl") else None
    # The last: the primary does not come back.
    yield "standby and failover", failover


def installations(bundled):
    """Folders of PostgreSQL's programs."""
    found = [folder / "bin" for folder in sorted(Path("/usr/lib/postgresql").glob("*")) if (folder / "bin/initdb").exists()]
    return ([bundled / "bin"] if (bundled / "bin/initdb").exists() else []) + found


def try_all(trial, programs, pgbouncers, only):
    folder = Path(tempfile.mkdtemp(dir=trial.folder))
    folder.chmod(0o755)
    if account():
        if str(programs).startswith("/root") or not os.access(programs, os.X_OK):
            programs = Path(shutil.copytree(programs.parent, folder / "install", symlinks=True)) / "bin"
        shutil.chown(folder, "postgres", "postgres")
    postgres = Postgres(programs, folder / "data").start()
    version, vector = postgres.versions()
    server = f"PostgreSQL {version}, pgvector {vector or 'missing'}"
    try:
        for name, kind in kinds(pgbouncers):
            if only not in name:
                continue
            files = folder / "".join(filter(str.isalnum, name))
            files.mkdir()
            if account():
                shutil.chown(files, "postgres", "postgres")
            began = time.monotonic()
            if kind is None or not vector:
                row = ("", "", "", "NOT tried: its programs are missing")
            else:
                try:
                    row = kind(trial, postgres, files)
                except (AssertionError, OSError, subprocess.SubprocessError) as error:
                    row = ("", "", "", f"FAILED: {error}".replace("\n", " "))
            print(f"| {name} | {server} | {' | '.join(row)} |", flush=True)
            yield not row[3].startswith("FAILED")
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    finally:
        postgres.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder with a folder of JPEGs for each person")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/faceid")
    parser.add_argument("--weights", type=Path, default=ROOT / ".deps/weights")
    parser.add_argument("--bundled", type=Path, default=ROOT / ".deps/postgres", help="PostgreSQL of `make setup`")
    parser.add_argument("--pgbouncer", action="append", default=[], help="one beside that on the path")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    # Servers that were started are stopped in any case.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pgbouncers = [program for program in (shutil.which("pgbouncer"), *arguments.pgbouncer) if program]
    print("| database | server | enroll, identify | second server sees it | promotion, seen by both | remarks |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="faceid-databases-") as folder:
        Path(folder).chmod(0o755)
        trial = Trial(arguments.binary.resolve(), arguments.photos, arguments.weights, Path(folder))
        results = [good for programs in installations(arguments.bundled.resolve()) for good in try_all(trial, programs, pgbouncers, arguments.only)]
    raise SystemExit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main()
