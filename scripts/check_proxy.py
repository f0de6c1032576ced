"""Two servers behind HAProxy or nginx, restarted in turn under load; then connections that rest. No request may fail.

    make build
    sudo apt-get install haproxy nginx-light
    python3 scripts/check_proxy.py --proxy haproxy

A third server owns the database and is not behind the proxy. Eight clients keep a connection each to the proxy and identify an
embedding again and again while each of the two servers gets SIGTERM, ends, and begins again, several rounds long. Then a connection
rests for 35 and for 61 seconds between two requests, through the proxy and without it.
Needs Python's standard library only.
"""
import argparse
import http.client
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 8
OWNER, FIRST, SECOND, PROXY = 9191, 9192, 9193, 9190
RESTS = (35, 61)
NOTICED = 2  # seconds until a proxy has surely noticed that a server is there again

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 60s
    timeout http-keep-alive 75s
    retries 3
    option redispatch
frontend all
    bind 127.0.0.1:{proxy}
    default_backend faceid
backend faceid
    option httpchk GET /readyz
    default-server inter 500ms fall 1 rise 1
    server first 127.0.0.1:{first} check
    server second 127.0.0.1:{second} check
"""

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    keepalive_timeout 75s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream faceid {{
        server 127.0.0.1:{first} max_fails=1 fail_timeout=1s;
        server 127.0.0.1:{second} max_fails=1 fail_timeout=1s;
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{proxy};
        location / {{
            proxy_pass http://faceid;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # Identifying changes nothing, so it may be asked for twice.
            proxy_next_upstream error timeout http_503 non_idempotent;
        }}
    }}
}}
"""


class Servers:
    """The servers, the proxy, and what they leave in a folder."""

    def __init__(self, binary, folder):
        self.binary, self.folder, self.running = binary, folder, {}

    def start(self, port, *arguments):
        data = self.folder / str(port)
        command = [self.binary, "serve", "--embedder", "fast", "--log", "warn", "--bind", f"127.0.0.1:{port}", "--data-dir", data, *arguments]
        self.running[port] = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
        for _ in range(1200):
            try:
                if ask(port, "GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            if self.running[port].poll() is not None:
                sys.exit(f"the server at port {port} ended with {self.running[port].returncode}")
            time.sleep(0.1)
        sys.exit(f"the server at port {port} does not become ready")

    def restart(self, port, *arguments):
        self.running[port].send_signal(signal.SIGTERM)
        self.running[port].wait(timeout=120)
        self.start(port, *arguments)

    def end(self):
        for process in reversed(list(self.running.values())):
            process.terminate()
            process.wait(timeout=120)


def ask(port, method, path, body=None, connection=None):
    connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {"content-type": "application/json"} if body else {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def proxy(kind, folder):
    ports = {"proxy": PROXY, "first": FIRST, "second": SECOND, "folder": folder}
    path = folder / "proxy.conf"
    path.write_text({"haproxy": HAPROXY, "nginx": NGINX}[kind].format(**ports))
    command = {"haproxy": ["haproxy", "-f", path], "nginx": ["nginx", "-c", path, "-e", folder / "start.log"]}[kind]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    time.sleep(2)
    return process


def identify_on(probe, until, tally):
    """One client: its connection stays open as long as the proxy leaves it so."""
    connection = http.client.HTTPConnection("127.0.0.1", PROXY, timeout=60)
    while not until.is_set():
        began = time.monotonic()
        try:
            status, answer = ask(PROXY, "POST", "/identify/embedding", probe, connection)
            tally.append((status, time.monotonic() - began, None if status == 200 else answer[:200]))
        except (OSError, http.client.HTTPException) as error:
            tally.append((0, time.monotonic() - began, repr(error)))
            connection = http.client.HTTPConnection("127.0.0.1", PROXY, timeout=60)


def rest(port, probe, seconds):
    """The status of a request on a connection that rested so long."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    ask(port, "POST", "/identify/embedding", probe, connection)
    socket = connection.sock
    time.sleep(seconds)
    status, _ = ask(port, "POST", "/identify/embedding", probe, connection)
    return status, connection.sock is socket


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/faceid")
    parser.add_argument("--proxy", choices=("haproxy", "nginx"), default="haproxy")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not shutil.which(options.proxy):
        sys.exit(f"{options.proxy} is missing: sudo apt-get install haproxy nginx-light")
    folder = Path(tempfile.mkdtemp(prefix="faceid-proxy-"))
    folder.chmod(0o755)
    servers = Servers(options.binary, folder)
    try:
        servers.start(OWNER)
        database = ["--database-url", f"postgres://faceid@localhost/faceid?host={folder}/{OWNER}/run"]
        for port in (FIRST, SECOND):
            servers.start(port, *database)
        between = proxy(options.proxy, folder)
        servers.running["proxy"] = between
        choose = random.Random(1)
        probe = json.dumps({"embedding": [choose.gauss(0, 1) for _ in range(512)]})
        until, tally = threading.Event(), []
        clients = [threading.Thread(target=identify_on, args=(probe, until, tally)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        for number in range(options.rounds):
            for port in (FIRST, SECOND):
                servers.restart(port, *database)
                time.sleep(NOTICED)
            print(f"round {number + 1}: {len(tally)} requests, {sum(status != 200 for status, *_ in tally)} failed", flush=True)
        until.set()
        for client in clients:
            client.join()
        failed = [entry for entry in tally if entry[0] != 200]
        slowest = max(seconds for _, seconds, _ in tally)
        print(f"{options.proxy}: {len(tally)} requests over {2 * options.rounds} restarts, {len(failed)} failed, slowest {slowest:.2f} s")
        for entry in failed[:5]:
            print(f"  {entry}")
        for seconds in RESTS:
            for name, port in (("through the proxy", PROXY), ("without it", FIRST)):
                status, same = rest(port, probe, seconds)
                print(f"after {seconds} s of silence, {name}: {status}, {'the same' if same else 'another'} connection")
                failed += [] if status == 200 else [status]
        return 1 if failed else 0
    finally:
        servers.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
