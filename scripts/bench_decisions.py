"""Measures whether decisions at a rate hold: strangers who are named, people who are missed, through a running server.

    python3 scripts/bench_decisions.py lfw lfw.npz --alias lfw_alias.txt --exclude lfw_exclude.txt --people fold.txt \\
        --url http://127.0.0.1:8080 --data-dir DATA
    python3 scripts/bench_decisions.py made gallery.jsonl probes.npz [--then more.jsonl] --url http://127.0.0.1:8080 --data-dir DATA
    python3 scripts/bench_decisions.py cost gallery.jsonl probes.npz --url http://127.0.0.1:8080 --data-dir DATA
    python3 scripts/bench_decisions.py newcomers PHOTOS --gallery-name made --url http://127.0.0.1:8080 --data-dir DATA

`lfw`: embeddings that scripts/plot_fnir.py keeps (`--embeddings`). Each draw holds some people out as strangers and enrolls one
photo of each of N others; `--people` names the only people who take part, one a line. `made`: a gallery and probes of a generator
of people who do not exist; `--then` imports more of them afterwards and asks again, before and after the gallery is measured anew.
`cost`: the same gallery, asked at once by every policy in turn: what each costs before anything is measured. `newcomers`: photos
of people, a folder each, through POST /enroll with `on_duplicate=reject` into a gallery that is there: how many are refused, and
how many second photos under another name are caught. Each person is deleted again.

Galleries are imported by `faceid import`; then every probe goes through POST /identify/embedding. The first answers come while
nothing is measured (basis `model`), the others once the gallery is (basis `gallery`). For each policy the table tells how
many strangers are named, the 99 % binomial bound of what was asked, FNIR, and FNIR at the threshold of an oracle who knows
these strangers. A newcomer whom `on_duplicate=reject` refuses is a stranger above the threshold of the duplicate rate.

Needs numpy.
"""
from __future__ import annotations

import argparse
import base64
import http.client
import json
import math
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from plot_fnir import read_names

POLICIES = [None, {"fpir": 0.1}, {"fpir": 0.03}, {"fpir": 0.01}, {"fpir": 0.003}]
DEFAULT_RATE = 0.01


class Server:
    def __init__(self, url: str):
        self.at = urllib.parse.urlsplit(url).netloc
        self.pool = ThreadPoolExecutor(4)

    def call(self, method: str, path: str, body: dict | None = None) -> dict:
        status, content = self.send(method, path, body and json.dumps(body), "application/json")
        if status >= 400:
            raise SystemExit(f"{method} {path}: {content}")
        return content

    def send(self, method: str, path: str, body: str | bytes | None, kind: str) -> tuple[int, dict]:
        for _ in range(300):
            connection = http.client.HTTPConnection(self.at, timeout=120)
            connection.request(method, path, body, {"content-type": kind})
            answer = connection.getresponse()
            content = json.loads(answer.read() or b"null")
            connection.close()
            if answer.status != 503:
                break
            time.sleep(0.2)
        return answer.status, content

    def identify(self, gallery: str, vector: np.ndarray, policy: dict | None) -> dict:
        body = {"embedding": [round(float(value), 6) for value in vector], "gallery": gallery, "top_k": 1}
        return self.call("POST", "/identify/embedding", body | (policy or {}))

    def all(self, gallery: str, vectors: np.ndarray, policy: dict | None = None) -> list[dict]:
        return list(self.pool.map(lambda vector: self.identify(gallery, vector, policy), vectors))


def bound(count: int, rate: float) -> int:
    """The number of strangers that is not exceeded in 99 of 100 cases where each is named at the rate."""
    ln, total, k = count * math.log1p(-rate), 0.0, 0
    while total + math.exp(ln) < 0.99:
        total += math.exp(ln)
        k += 1
        ln += math.log(rate / (1 - rate) * (count - k + 1) / k)
    return k


def bring(chosen: argparse.Namespace, name: str, lines: list[str] | Path) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        path = lines
        if not isinstance(lines, Path):
            file.write("".join(lines))
            file.flush()
            path = file.name
        command = [chosen.faceid, "import", str(path), "--gallery", name, "--data-dir", chosen.data_dir, "--postgres-dir", chosen.postgres_dir]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr)


def line(subject: str, vector: np.ndarray) -> str:
    return json.dumps({"subject": subject, "embedding": base64.b64encode(vector.astype("<f2").tobytes()).decode()}) + "\n"


def measured(server: Server, name: str, since: float) -> dict:
    """What the gallery shows of strangers once it was measured at its size."""
    while True:
        gallery = server.call("GET", f"/galleries/{name}")
        strangers, subjects = gallery["strangers"], gallery["search"]["templates"]
        if "measured_subjects" in strangers and 0.8 <= strangers["measured_subjects"] / subjects <= 1.25:
            return strangers | {"waited": time.time() - since}
        time.sleep(1)


def table(rows: list[dict]) -> None:
    for row in rows:
        print(
            f"| {row['n']} | {row['policy']} | {row['basis']} | {row['named']} of {row['strangers']} ({row['named'] / row['strangers']:.2%})"
            f" | {row['bound']} | {row['fnir']:.2%} | {row['oracle']:.2%} |", flush=True
        )


def rows_of(server: Server, name: str, n: int, strangers: np.ndarray, mates: np.ndarray, owners: list[str], basis: str) -> list[dict]:
    of_strangers, of_mates = server.all(name, strangers), server.all(name, mates)
    highest = np.array([answer["matches"][0]["similarity"] for answer in of_strangers])
    right = np.array([a["matches"][0]["similarity"] if a["matches"][0]["subject"] == o else -2.0 for a, o in zip(of_mates, owners)])
    ambiguous = sum(answer["ambiguous"] for answer in of_mates)
    rows = []
    for policy in POLICIES:
        rate = policy["fpir"] if policy else DEFAULT_RATE
        decision = server.identify(name, strangers[0], policy)["decision"]
        if decision["basis"] != basis:
            continue
        threshold = decision["threshold"]
        named = sum(a["known"] or a["ambiguous"] for a in of_strangers) if policy is None else int((highest >= threshold).sum())
        missed = float((right < threshold).mean())
        allowed = int(rate * len(highest))
        oracle = np.sort(highest)[::-1][allowed]
        rows.append(dict(
            n=n, policy="default" if policy is None else f"fpir {rate}", basis=basis, named=int(named), strangers=len(highest),
            bound=bound(len(highest), rate), fnir=missed, oracle=float((right <= oracle).mean()), rate=rate, threshold=threshold,
            ambiguous=ambiguous, mates=len(right),
        ))
    return rows


def kept_embeddings(path: str) -> tuple[np.ndarray, list[list[str]]]:
    """Embeddings, and of each the person and the photo."""
    with np.load(path) as kept:
        return kept["embeddings"], [str(photo).split("/") for photo in kept["photos"]]


def lfw(chosen: argparse.Namespace) -> None:
    server = Server(chosen.url)
    vectors, photos = kept_embeddings(chosen.embeddings)
    doubled = {names[1] for names in read_names(chosen.alias)}
    excluded = {names[0] for names in read_names(chosen.exclude)}
    only = {names[0] for names in read_names(chosen.people)} if chosen.people else None
    people: dict[str, list[int]] = {}
    for at, (person, photo) in enumerate(photos):
        if person not in doubled and photo not in excluded and (only is None or person in only):
            people.setdefault(person, []).append(at)
    names = sorted(people)
    random = np.random.default_rng(chosen.seed)
    sums: dict[tuple, list[dict]] = {}
    for size in chosen.sizes:
        n = size or len(names) - chosen.strangers
        for draw in range(chosen.draws if size and size < 1000 else max(1, chosen.draws // 3)):
            order = [names[i] for i in random.permutation(len(names))]
            strangers = vectors[[people[person][random.integers(len(people[person]))] for person in order[: chosen.strangers]]]
            lines, mates, owners, enrolled = [], [], [], order[chosen.strangers : chosen.strangers + n]
            for count, person in enumerate(enrolled):
                own = [people[person][i] for i in random.permutation(len(people[person]))]
                lines.append(line(person, vectors[own[0]]))
                twice = count < chosen.twice * n and len(own) > 1
                if twice:
                    lines.append(line(person + " again", vectors[own[1]]))
                else:
                    mates += own[1:6]
                    owners += [person] * len(own[1:6])
            name = f"lfw-{n}-{draw}-{time.time_ns()}"
            began = time.time()
            bring(chosen, name, lines)
            known(server, name)
            rows = rows_of(server, name, n, strangers, vectors[mates], owners, "model")
            measured(server, name, began)
            rows += rows_of(server, name, n, strangers, vectors[mates], owners, "gallery")
            for row in rows:
                sums.setdefault((n, row["basis"], row["policy"]), []).append(row)
            server.call("DELETE", f"/galleries/{name}")
        for key, rows in sums.items():
            if key[0] != n:
                continue
            total = sum(row["strangers"] for row in rows)
            over = sum(row["named"] > row["bound"] for row in rows)
            mean = lambda field: sum(row[field] * row["mates"] for row in rows) / sum(row["mates"] for row in rows)
            merged = rows[0] | dict(named=sum(row["named"] for row in rows), strangers=total, fnir=mean("fnir"), oracle=mean("oracle"))
            merged["bound"] = f"{bound(total, merged['rate'])}; {over} of {len(rows)} galleries over their own"
            table([merged])


def made(chosen: argparse.Namespace) -> None:
    server = Server(chosen.url)
    probes = np.load(chosen.probes)
    name, began = chosen.gallery_name, time.time()
    mates, owners = probes["mates"][: chosen.mates], [f"p{owner}" for owner in probes["mate_of"][: chosen.mates]]
    for path, basis in [(chosen.gallery, "model"), (chosen.then, "gallery")]:
        if not path:
            continue
        bring(chosen, name, Path(path))
        print(f"imported {path} in {time.time() - began:.0f} s", flush=True)
        began = time.time()
        known(server, name)
        n = server.call("GET", f"/galleries/{name}")["search"]["templates"]
        table(rows_of(server, name, n, probes["strangers"], mates, owners, basis))
        strangers = measured(server, name, began)
        print(f"measured {strangers['waited']:.0f} s after the import, on {strangers['probes']} faces; enrolled twice: {strangers['twice']:.3%}")
        table(rows_of(server, name, n, probes["strangers"], mates, owners, "gallery"))
        print(json.dumps(strangers["thresholds"]))


def cost(chosen: argparse.Namespace) -> None:
    """One request after the other, each policy in turn, from the moment on at which the gallery is imported."""
    server = Server(chosen.url)
    probes, name = np.load(chosen.probes)["strangers"], chosen.gallery_name
    bring(chosen, name, Path(chosen.gallery))
    asked = [{"threshold": 0.5}, {"fmr": 1e-6}, {"fpir": 0.1}, {"fpir": 0.003}]
    policies = {"default": None} | {" ".join(f"{name} {value:g}" for name, value in policy.items()): policy for policy in asked}
    times, bases = {policy: [] for policy in policies}, Counter()
    until = time.time() + chosen.seconds
    while time.time() < until:
        for policy, body in policies.items():
            probe = probes[len(times[policy]) % len(probes)]
            began = time.perf_counter()
            answer = server.identify(name, probe, body)
            times[policy].append((time.perf_counter() - began) * 1e3)
            bases[policy, answer["decision"]["basis"]] += 1
    n = server.call("GET", f"/galleries/{name}")["subjects"]
    for policy, taken in times.items():
        shares = ", ".join(f"{basis} {count}" for (of, basis), count in bases.items() if of == policy)
        figures = " | ".join(f"{np.percentile(taken, share):.1f}" for share in (50, 99, 100))
        print(f"| {n} | {policy} | {len(taken)} | {figures} | {shares} |", flush=True)


def known(server: Server, name: str) -> None:
    """Waits until the search knows every subject that was imported."""
    while True:
        gallery = server.call("GET", f"/galleries/{name}")
        if gallery["search"]["templates"] >= gallery["subjects"]:
            return
        time.sleep(1)


def newcomers(chosen: argparse.Namespace) -> None:
    server = Server(chosen.url)
    only = {names[0] for names in read_names(chosen.people)} if chosen.people else None
    folders = [f for f in sorted(Path(chosen.photos).iterdir()) if f.is_dir() and (only is None or f.name in only)]
    photos = [sorted(folder.iterdir())[:2] for folder in folders]
    photos = [photos[i] for i in np.random.default_rng(chosen.seed).permutation(len(photos)) if len(photos[i]) == 2][: chosen.most]

    def enroll(subject: str, photo: Path) -> tuple[int, dict]:
        query = urllib.parse.urlencode(dict(gallery=chosen.gallery_name, subject=subject, face="largest", on_duplicate="reject"))
        return server.send("POST", "/enroll?" + query, photo.read_bytes(), "image/jpeg")

    def one(pair: list[Path]) -> tuple[str, str]:
        name, outcomes = "newcomer " + pair[0].parent.name, []
        for subject, photo in [(name, pair[0]), (name + " again", pair[1])]:
            status, content = enroll(subject, photo)
            outcomes.append("enrolled" if status == 201 else content["code"])
        for subject in [name, name + " again"]:
            server.send("DELETE", f"/subjects/{urllib.parse.quote(subject)}?gallery={chosen.gallery_name}", None, "application/json")
        return outcomes[0], outcomes[1]

    outcomes = list(ThreadPoolExecutor(4).map(one, photos))
    first = Counter(outcome for outcome, _ in outcomes)
    second = Counter(again for outcome, again in outcomes if outcome == "enrolled")
    n = server.call("GET", f"/galleries/{chosen.gallery_name}")["subjects"]
    refused, new = first["duplicate_face"], first["duplicate_face"] + first["enrolled"]
    print(f"| {n} | {refused} of {new} ({refused / new:.2%}) | {bound(new, DEFAULT_RATE)} | "
          f"{second['duplicate_face']} of {sum(second.values())} ({second['duplicate_face'] / sum(second.values()):.2%}) |", flush=True)
    print(dict(first), dict(second))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", default="http://127.0.0.1:8080")
    common.add_argument("--data-dir", required=True, help="that of the server")
    common.add_argument("--faceid", default="target/release/faceid")
    common.add_argument("--postgres-dir", default=".deps/postgres")
    one = kinds.add_parser("lfw", parents=[common])
    one.add_argument("embeddings")
    one.add_argument("--alias", type=Path)
    one.add_argument("--exclude", type=Path)
    one.add_argument("--people", type=Path)
    one.add_argument("--sizes", type=int, nargs="+", default=[50, 200, 1000, 0], help="0: all but the strangers")
    one.add_argument("--strangers", type=int, default=1000)
    one.add_argument("--twice", type=float, default=0.0, help="share of people who are enrolled twice")
    one.add_argument("--draws", type=int, default=9)
    one.add_argument("--seed", type=int, default=1)
    one.set_defaults(run=lfw)
    two = kinds.add_parser("made", parents=[common])
    two.add_argument("gallery")
    two.add_argument("probes")
    two.add_argument("--gallery-name", default="made")
    two.add_argument("--mates", type=int, default=2000)
    two.add_argument("--then", help="imported after the gallery was measured")
    two.set_defaults(run=made)
    three = kinds.add_parser("cost", parents=[common])
    three.add_argument("gallery")
    three.add_argument("probes")
    three.add_argument("--gallery-name", default="cost")
    three.add_argument("--seconds", type=float, default=60)
    three.set_defaults(run=cost)
    four = kinds.add_parser("newcomers", parents=[common])
    four.add_argument("photos")
    four.add_argument("--gallery-name", required=True)
    four.add_argument("--people", type=Path)
    four.add_argument("--most", type=int, default=500)
    four.add_argument("--seed", type=int, default=1)
    four.set_defaults(run=newcomers)
    chosen = parser.parse_args()
    chosen.run(chosen)


if __name__ == "__main__":
    sys.exit(main())
