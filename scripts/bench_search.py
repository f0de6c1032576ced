"""Search in a made gallery: faceid's servers and vector libraries on the same vectors, against float64.

    python3 scripts/make_gallery.py 1000000 > made.jsonl
    faceid import made.jsonl
    python3 scripts/bench_search.py made.jsonl --server resident=http://127.0.0.1:9181 --server pgvector=http://127.0.0.1:9182

Asks each server by POST /identify/embedding with 1, 8 and 32 connections (with `wrk`), and compares the best subjects with
those that numpy finds in float64. Libraries (faiss-cpu, usearch; `--no-libraries` leaves them out) search the faces one by
one, or the templates, as the column says. Needs numpy. Prints tables in Markdown.
"""
import argparse
import base64
import json
import re
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

BATCHES = (1, 8, 32)
WRK = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local next = 0
request = function()
  next = next %% #bodies + 1
  return wrk.format("POST", "/identify/embedding", {["content-type"] = "application/json"}, bodies[next])
end
"""


def load(path):
    """The vectors of a file of make_gallery.py, and the number of the subject of each."""
    vectors, subjects = [], []
    with open(path) as lines:
        header = json.loads(next(lines))
        for line in lines:
            face = json.loads(line)
            vectors.append(np.frombuffer(base64.b64decode(face["embedding"]), "<f2"))
            subjects.append(int(face["subject"].split()[1]))
    return header["gallery"], np.array(vectors, np.float32), np.array(subjects)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def templates_of(vectors, subjects):
    sums = np.zeros((subjects.max() + 1, vectors.shape[1]))
    np.add.at(sums, subjects, vectors.astype(np.float64))
    return unit(sums).astype(np.float32)


def probes_of(templates, count, seed=7):
    """Another photo of some of the subjects, and who they are."""
    rng = np.random.default_rng(seed)
    subjects = rng.choice(len(templates), count, replace=False)
    noise = unit(rng.standard_normal((count, templates.shape[1])))
    return unit(templates[subjects] + 0.8 * noise).astype(np.float32), subjects


def exact_best(rows, probes):
    """The best row of each probe in float64."""
    best, at = np.full(len(probes), -2.0), np.zeros(len(probes), int)
    for first in range(0, len(rows), 20_000):
        scores = probes.astype(np.float64) @ rows[first : first + 20_000].astype(np.float64).T
        top = scores.argmax(1)
        value = scores[np.arange(len(probes)), top]
        at = np.where(value > best, first + top, at)
        best = np.maximum(value, best)
    return at


def timed(search, probes, batch, rounds=7):
    times = []
    for number in range(rounds):
        start = (number * batch) % (len(probes) - batch + 1)
        began = time.perf_counter()
        search(probes[start : start + batch])
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def library(name, rows, search, probes, expected, built=None):
    recall = float((search(probes) == expected).mean())
    times = " | ".join(f"{timed(search, probes, batch):.1f}" for batch in BATCHES)
    print(f"| {name} | {len(rows):,} | {'' if built is None else f'{built:.0f} s'} | {recall:.4f} | {times} |", flush=True)


def libraries(vectors, subjects, templates, probes, threads):
    import faiss
    from usearch.index import Index

    faiss.omp_set_num_threads(threads)
    print("\n| library | vectors | built in | best as in float64 | 1 query, ms | 8 queries, ms | 32 queries, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rows in (vectors, templates):
        flat = faiss.IndexFlatIP(rows.shape[1])
        flat.add(rows)
        library("faiss flat, float32", rows, lambda p: flat.search(p, 5)[1][:, 0], probes, exact_best(rows, probes))
        del flat
    expected = exact_best(templates, probes)
    began = time.perf_counter()
    hnsw = faiss.IndexHNSWFlat(templates.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    hnsw.add(templates)
    built = time.perf_counter() - began
    for ef in (16, 200):
        hnsw.hnsw.efSearch = ef
        library(f"faiss HNSW 32, efSearch {ef}", templates, lambda p: hnsw.search(p, 5)[1][:, 0], probes, expected, built)
    del hnsw
    for kind in ("f16", "i8"):
        index = Index(ndim=templates.shape[1], metric="cos", dtype=kind)
        began = time.perf_counter()
        index.add(np.arange(len(templates)), templates, threads=threads)
        built = time.perf_counter() - began

        def search(p):
            return np.atleast_2d(index.search(p, 5, threads=threads).keys)[:, 0].astype(int)

        library(f"usearch HNSW, {kind}, defaults", templates, search, probes, expected, built)


def ask(url, body):
    request = urllib.request.Request(f"{url}/identify/embedding", body, {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def server(name, url, gallery, probes, mates, expected, seconds):
    bodies = [json.dumps({"gallery": gallery, "embedding": [round(float(x), 7) for x in p]}).encode() for p in probes]
    found = np.array([int(ask(url, body)["matches"][0]["subject"].split()[1]) for body in bodies])
    row = f"| {name} | {(found == expected).mean():.4f} | {(found == mates).mean():.4f} |"
    with tempfile.TemporaryDirectory() as folder:
        file, script = Path(folder, "bodies"), Path(folder, "wrk.lua")
        file.write_bytes(b"\n".join(bodies))
        script.write_text(WRK % file)
        for connections in BATCHES:
            command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "--latency", "-s", script, url]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            percentiles = dict(re.findall(r"(50|99)%\s+(\S+)", output))
            rate = re.search(r"Requests/sec:\s+(\S+)", output).group(1)
            failed = " with failures" if "Non-2xx" in output else ""
            row += f" {percentiles['50']} / {percentiles['99']}, {float(rate):.0f}/s{failed} |"
    print(row, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--server", action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--probes", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=10, help="for each number of connections")
    parser.add_argument("--threads", type=int, default=2, help="of the libraries")
    parser.add_argument("--no-libraries", action="store_true")
    arguments = parser.parse_args()
    gallery, vectors, subjects = load(arguments.file)
    templates = templates_of(vectors, subjects)
    probes, mates = probes_of(templates, arguments.probes)
    expected = exact_best(templates, probes)
    print(f"{len(vectors):,} faces of {len(templates):,} subjects, {len(probes)} probes with a mate")
    print("\n| server | best as in float64 | mate found | 1 connection, p50 / p99 | 8 connections | 32 connections |")
    print("| --- | --- | --- | --- | --- | --- |")
    for named in arguments.server:
        name, url = named.split("=", 1)
        server(name, url, gallery, probes, mates, expected, arguments.seconds)
    if not arguments.no_libraries:
        libraries(vectors, subjects, templates, probes, arguments.threads)


if __name__ == "__main__":
    main()
