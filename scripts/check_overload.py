"""What a server answers while its database is overloaded: identifications by second, how old they are, how it recovers.

    make build
    python3 scripts/check_overload.py --svg benches/overload.svg

Clients identify by embedding all the time, another one enrolls. After a quiet while the database is overloaded in two ways, with a
quiet while between: `locked`, nobody gets at the log of changes; `busy`, as many sessions as there are connections compute. Prints
a line for each second, and draws them. With `--apart` PostgreSQL has the last core for itself, as if on another machine, and the
server and its clients have the others: what computes in the database then takes nothing else from them.
"""
import argparse
import json
import os
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path

from check_background import HOME, PORTS, ROOT, Client, embedding_of, make_people, psql, spawn, until_ready

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 62, 738, 66, 250
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2933 }
.soft { fill: #556170 } .title { font-weight: 600 } .paper { fill: #ffffff } .band { fill: #f6e3df }
.grid { stroke: #dde2e9; stroke-width: 1 } .rate { fill: none; stroke: #1b6ca8; stroke-width: 2 } .age { fill: none; stroke: #b8442f; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ee } .soft { fill: #a7b1be } .paper { fill: #161b22 } .band { fill: #3a2320 }
.grid { stroke: #303843 } .rate { stroke: #6cb6ff } .age { stroke: #ff8f78 }
}
"""


class Load:
    """Clients that ask as fast as they are answered; what came of it, by second."""

    def __init__(self, gallery, probes, clients):
        self.gallery, self.probes, self.began, self.going = gallery, probes, time.monotonic(), True
        self.seconds = {}
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.identify, args=(n,), daemon=True) for n in range(clients)] + [threading.Thread(target=self.create, daemon=True)]
        for thread in self.threads:
            thread.start()

    def note(self, what, stale=None, took=0.0):
        with self.lock:
            second = self.seconds.setdefault(int(time.monotonic() - self.began), {"answered": 0, "stale": 0, "age": 0.0, "refused": 0, "slowest": 0.0, "written": 0, "not_written": 0})
            second[what] += 1
            second["slowest"] = max(second["slowest"], took)
            if stale is not None:
                second["stale"] += 1
                second["age"] = max(second["age"], stale)

    def identify(self, number):
        client = Client(PORTS[0])
        while self.going:
            began = time.monotonic()
            try:
                status, answer = client.ask("POST", "/identify/embedding", {"embedding": self.probes[number % len(self.probes)], "gallery": self.gallery})
            except OSError:
                client, status = Client(PORTS[0]), 0
            took = time.monotonic() - began
            if status == 200:
                self.note("answered", answer.get("stale_seconds"), took)
            else:
                self.note("refused", None, took)
                time.sleep(0.05)

    def create(self):
        client = Client(PORTS[0])
        while self.going:
            try:
                status, _ = client.ask("POST", "/subjects", {"name": uuid.uuid4().hex, "gallery": self.gallery})
            except OSError:
                client, status = Client(PORTS[0]), 0
            self.note("written" if status == 201 else "not_written")
            time.sleep(0.1)

    def stop(self):
        self.going = False
        for thread in self.threads:
            thread.join()


def part(data, server):
    """Gives PostgreSQL the last core and the server the others."""
    *others, last = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others)
    postmaster = int(next(Path(data).glob("**/postmaster.pid")).read_text().split()[0])
    backends = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for process in (postmaster, *map(int, backends)):
        os.sched_setaffinity(process, {last})
    for thread in Path(f"/proc/{server.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), others)


def psql_session(data, sql):
    program = next(iter(sorted(HOME.glob("postgres*/bin/psql"))), "psql")
    command = [str(program), "-h", str(Path(data).resolve() / "run"), "-U", "faceid", "-d", "faceid", "-qAt", "-c", sql]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def overload(data, how, seconds):
    if how == "locked":
        psql_session(data, f"begin; lock table changes in access exclusive mode; select pg_sleep({seconds}); commit").wait()
        return
    compute = f"set statement_timeout = {seconds * 1000}; select sum(sqrt(n)) from generate_series(1, 10000000000) n"
    sessions = [psql_session(data, compute) for _ in range(32)]
    for session in sessions:
        session.wait()


def draw(seconds, bands, title):
    end = max(seconds) + 1
    top_rate = 1.1 * max(second["answered"] for second in seconds.values())
    top_age = max(1.0, 1.1 * max(second["age"] for second in seconds.values()))
    lower, bottom = BOTTOM + 42, HEIGHT - 52

    def x(at):
        return LEFT + (RIGHT - LEFT) * at / end

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{title}</title><desc>Above, identifications answered in each second; below, the age of the oldest memory that answered. Shaded: the database is overloaded.</desc>",
        f"<style>{STYLE}</style>", f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>', f'<text class="title" x="{LEFT}" y="30">{title}</text>',
        f'<text class="soft" x="{LEFT}" y="52">identifications answered in each second</text>', f'<text class="soft" x="{LEFT}" y="{lower - 12}">age of the memory that answered, seconds</text>',
    ]
    for name, begin, finish in bands:
        out.append(f'<rect class="band" x="{x(begin):.1f}" y="{TOP}" width="{x(finish) - x(begin):.1f}" height="{bottom - TOP}"/>')
        out.append(f'<text class="soft" x="{(x(begin) + x(finish)) / 2:.1f}" y="{HEIGHT - 12}" text-anchor="middle">{name}</text>')
    for top, low, high, parts in ((top_rate, BOTTOM, TOP, 4), (top_age, bottom, lower, 2)):
        for part in range(parts + 1):
            y = low - (low - high) * part / parts
            out.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            out.append(f'<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{top * part / parts:.0f}</text>')
    for kind, key, top, low, high in (("rate", "answered", top_rate, BOTTOM, TOP), ("age", "age", top_age, bottom, lower)):
        points = " ".join(f"{x(at + 0.5):.1f},{low - (low - high) * seconds.get(at, {key: 0})[key] / top:.1f}" for at in range(end))
        out.append(f'<polyline class="{kind}" points="{points}"/>')
    for at in range(0, end + 1, 20):
        out.append(f'<text class="soft" x="{x(at):.1f}" y="{bottom + 18}" text-anchor="middle">{at} s</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/faceid")
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=30, help="of each overload")
    parser.add_argument("--quiet", type=int, default=20, help="seconds before and after each")
    parser.add_argument("--apart", action="store_true", help="PostgreSQL on a core of its own")
    parser.add_argument("--svg", help="where to draw")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faceid-overload-") as data:
        server = spawn(ROOT / arguments.binary, PORTS[0], data)
        until_ready(server, PORTS[0])
        gallery = str(uuid.uuid4())
        make_people(data, gallery, arguments.people, 2)
        server.terminate()
        server.wait()
        server = spawn(ROOT / arguments.binary, PORTS[0], data)
        until_ready(server, PORTS[0])
        if arguments.apart:
            part(data, server)
        load = Load(gallery, [embedding_of(data, gallery)], arguments.clients)
        bands = []
        time.sleep(arguments.quiet)
        for how in ("locked", "busy"):
            begin = time.monotonic() - load.began
            overload(data, how, arguments.seconds)
            bands.append((how, begin, time.monotonic() - load.began))
            time.sleep(arguments.quiet)
        load.stop()
        server.terminate()
        server.wait()
    for at, second in sorted(load.seconds.items()):
        within = next((name for name, begin, end in bands if begin <= at < end), "")
        print(json.dumps({"second": at, "overload": within, **{key: round(value, 2) for key, value in second.items()}}))
    if arguments.svg:
        Path(arguments.svg).write_text(draw(load.seconds, bands, "A server while its database is overloaded"))


if __name__ == "__main__":
    main()
