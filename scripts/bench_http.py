"""POST /identify over loopback: faceid's server against the peer's, and against faceid's own pipeline without HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

from bench_report import Bar, figure, paragraph, ratio, table, verdict
from bench_tools import PATIENCE, BenchError, Load, Server, ask, environment, finished, free_port, jpeg_size, pinned, say, server, wrk

BARS = {8: Bar(2.5), 1: Bar(1.0, at_most=True)}  # by connections
LEAST_OF_PIPELINE = 0.9
MEGAPIXELS = (0.3, 0.6)  # of the scenes that are sent
ENROL_TRIES = 50  # connections, until each worker had one
HEADER = ["what", "faceid", "peer", "ratio", "bar", "met", "failed (faceid, peer)", "peer's layout"]
PIPELINE_HEADER = ["photos", "faceid over HTTP, requests/s", "its pipeline alone, photos/s", "share", "bar", "met"]


@dataclasses.dataclass(frozen=True)
class PhotoSet:
    """Photos to send, relative to the data folder, and how many faces of each faceid is to look at."""

    photos: list[str]
    max_faces: int | None = None


def measure(bench, threads: list[int], about: str) -> str:
    sets = photo_sets(bench.data)
    names = " and ".join(f"{len(sets[name].photos)} photos of {name}" for name in ("lfw100", "scenes"))
    how = (
        f"Each run sends {names} (those of {MEGAPIXELS[0]} to {MEGAPIXELS[1]} megapixels) in turn for {bench.http_seconds:g} s, over 8 "
        "connections or one. Ten people are enrolled; both sides were checked to name the right person on a second photo of each. "
        "The peer embeds only the largest face of a photo, and so does faceid with max_faces=1; without it, it embeds every face."
    )
    sections = ["### HTTP", about, paragraph(how)]
    for count in threads:
        sections.append(with_threads(bench, count, sets))
    return "\n\n".join(sections)


def photo_sets(data: Path) -> dict[str, PhotoSet]:
    """The photos to send, by name of the set."""

    def names(paths) -> list[str]:
        return [str(path.relative_to(data)) for path in sorted(paths)]

    def megapixels(path: Path) -> float:
        width, height = jpeg_size(path)
        return width * height / 1e6

    scenes = [path for path in (data / "scenes").glob("*.jpg") if MEGAPIXELS[0] <= megapixels(path) <= MEGAPIXELS[1]]
    lfw, scenes = names((data / "lfw100").glob("*/*.jpg")), names(scenes)
    sets = {"lfw100": PhotoSet(lfw), "scenes, largest face": PhotoSet(scenes, 1), "scenes": PhotoSet(scenes)}
    for name, chosen in sets.items():
        if not chosen.photos:
            raise BenchError(f"{data / name} holds no photos to send")
    return sets


def with_threads(bench, threads: int, sets: dict[str, PhotoSet]) -> str:
    every = sorted(os.sched_getaffinity(0))
    cores, client = every[:threads], every[-1:] if threads < len(every) else []
    label = f"{threads} thread{'s' * (threads > 1)}"
    loads, pipelines = defaultdict(list), defaultdict(list)

    def send(at: Server, photos: str, connections: int, seconds: float) -> Load:
        most = sets[photos].max_faces if at.layout == "faceid" else None
        query = f"&max_faces={most}" if most else ""
        return wrk(bench.peer / "post.lua", sets[photos].photos, bench.data, at, connections, seconds, client, query)

    with contextlib.ExitStack() as stack:
        layouts = dict.fromkeys([(threads, 1), (1, threads)])  # workers, threads of each
        peers = [stack.enter_context(peer_server(bench, cores, *layout)) for layout in layouts]
        ours = stack.enter_context(our_server(bench, cores))
        chosen = {}
        for photos in sets:
            for connections in BARS:  # warms up as well
                trials = [(send(at, photos, connections, min(3, bench.http_seconds)).per_second, at) for at in peers]
                chosen[photos, connections] = max(trials, key=lambda trial: trial[0])[1]
                send(ours, photos, connections, min(3, bench.http_seconds))
        for turn in range(bench.rounds):
            for photos in sets:
                say(f"HTTP, {label}, {photos}: round {turn + 1} of {bench.rounds}")
                for connections in BARS:
                    for side, at in (("peer", chosen[photos, connections]), ("ours", ours)):
                        loads[side, photos, connections].append(send(at, photos, connections, bench.http_seconds))
                pipelines[photos].append(pipeline(bench, cores, sets[photos]))
    rows = [row(loads, photos, connections, chosen[photos, connections].layout) for photos in sets for connections in BARS]
    shares = [share_row(photos, loads["ours", photos, 8], pipelines[photos]) for photos in sets]
    where = f"wrk on core {client[0]}" if client else "wrk on any core"
    return f"{label}; {where}:\n\n{table(HEADER, rows)}\n\n{table(PIPELINE_HEADER, shares)}"


def row(loads: dict, photos: str, connections: int, layout: str) -> list[str]:
    bar = BARS[connections]
    ours, peer = (loads[side, photos, connections] for side in ("ours", "peer"))
    what, values = ("p50 in ms", lambda load: load.p50_ms) if bar.at_most else ("requests/s", lambda load: load.per_second)
    ours_values, peer_values = [values(load) for load in ours], [values(load) for load in peer]
    ours_failed, peer_failed = (sum(load.failed for load in side) for side in (ours, peer))
    reached = ratio(ours_values, peer_values)
    name = f"{photos}, {connections} connection{'s' * (connections > 1)}, {what}"
    met = verdict(bar.met(reached), ours_failed)
    return [name, figure(ours_values), figure(peer_values), f"{reached:.2f}x", str(bar), met, f"{ours_failed}, {peer_failed}", layout]


def share_row(photos: str, loads: list[Load], pipelines: list[float]) -> list[str]:
    """A round's requests are divided by the pipeline of the same round."""
    served = [load.per_second for load in loads]
    share = ratio(served, pipelines)
    each = [one / other for one, other in zip(served, pipelines)]
    spread = f" ({min(each):.0%} to {max(each):.0%})" if len(each) > 1 else ""
    met = verdict(share >= LEAST_OF_PIPELINE, sum(load.failed for load in loads))
    return [photos, figure(served), figure(pipelines), f"{share:.0%}{spread}", f"{LEAST_OF_PIPELINE:.0%}", met]


@contextlib.contextmanager
def peer_server(bench, cores: list[int], workers: int, threads: int) -> Iterator[Server]:
    port, layout = free_port(), f"{workers} worker{'s' * (workers > 1)} of {threads} thread{'s' * (threads > 1)}"
    log = bench.temporary / f"peer-{port}.log"
    command = [bench.python, "-m", "uvicorn", "peer_ort_server:app", "--app-dir", bench.peer, "--host", "127.0.0.1", "--port", port]
    command += ["--workers", workers, "--log-level", "info", "--no-access-log"]
    settings = {"PEER_DETECTOR": bench.detector, "PEER_EMBEDDER": bench.embedder, "PEER_THREADS": threads, "PEER_MAX_SIDE": 640}
    variables = environment(**{name: str(value) for name, value in settings.items()})
    with server(pinned(cores, command), port, layout, "/openapi.json", log, env=variables) as up:
        deadline = time.monotonic() + PATIENCE
        while log.read_text(errors="replace").count("Application startup complete") < workers:
            if time.monotonic() > deadline:
                raise BenchError(f"not all of the peer's {workers} workers started")
            time.sleep(0.1)
        enrol(up, bench.data / "lfw100", workers)
        yield up


@contextlib.contextmanager
def our_server(bench, cores: list[int]) -> Iterator[Server]:
    port = free_port()
    folder = bench.temporary / f"data-{port}"
    folder.mkdir(mode=0o755)
    command = [bench.binary, "serve", "--embedder", "fast", "--threads", len(cores), "--bind", f"127.0.0.1:{port}", "--data-dir", folder, "--log", "warn"]
    log = bench.temporary / f"faceid-{port}.log"
    with server(pinned(cores, command), port, "faceid", "/readyz", log, env=bench.faceid_environment()) as up:
        enrol(up, bench.data / "lfw100", 1)
        yield up


def pipeline(bench, cores: list[int], chosen: PhotoSet) -> float:
    command = [bench.binary, "bench", "--json", "--threads", len(cores), "--stages", "pipeline", "--concurrency", 8]
    command += ["--max-faces", chosen.max_faces] if chosen.max_faces else []
    command += ["--seconds", f"{min(5, bench.http_seconds):g}", "--photos", *chosen.photos]
    report = json.loads(finished(pinned(cores, command), cwd=bench.data, env=bench.faceid_environment()))
    for result in report["results"]:
        if result["stage"] == "pipeline":
            return result["items_per_second"]
    raise BenchError("`faceid bench` gave no figure for its pipeline")


def enrol(at: Server, folder: Path, workers: int) -> None:
    """Enrols the first photo of each person, and makes sure that the second is recognised: a server that answers wrongly is
    not worth timing."""
    people = {person.name: sorted(person.glob("*.jpg")) for person in sorted(folder.iterdir()) if person.is_dir()}
    waiting = workers  # that have nobody yet
    for _ in range(ENROL_TRIES):
        with at.connect() as connection:  # a worker of the peer has a gallery of its own, and a connection belongs to one worker
            for done, (name, photos) in enumerate(people.items(), 1):
                status, answer = ask(connection, "POST", f"/enroll?subject={name}&face=largest", photos[0])
                if status not in (200, 201):
                    raise BenchError(f"the server ({at.layout}) refused to enrol: {status} {answer}")
                if answer.get("faces", done) != done:
                    break  # the connection came to a worker that has them all
            else:
                waiting -= 1
        if not waiting:
            break
    with ThreadPoolExecutor(8) as clients:  # enough at once to reach every worker
        wrong = sum(clients.map(lambda one: best_match(at, one[1][1]) != one[0], [*people.items()] * 4))
    if wrong or waiting:
        raise BenchError(f"the server ({at.layout}) names {wrong} of {len(people) * 4} people wrongly, and {waiting} of its workers got nobody")


def best_match(at: Server, photo: Path) -> str | None:
    """Whom the largest face resembles most."""
    status, answer = at.ask("POST", "/identify?top_k=5", photo)
    if status != 200:
        return None
    matches = answer["faces"][0]["matches"] if answer.get("faces") else answer.get("matches")
    return matches[0]["subject"] if matches else None
