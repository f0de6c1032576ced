"""Measures how many known people a gallery misses as it grows, and draws it.

    python3 scripts/plot_fnir.py PHOTOS http://127.0.0.1:8080 --alias lfw_alias.txt --exclude lfw_exclude.txt \\
        --embeddings lfw.npz --svg docs/images/fnir-growth.svg

PHOTOS holds one folder for each person. Every photo goes through POST /embed of a running server, two at a time; of several
faces the one nearest to the middle of the photo counts. The embeddings are kept in the file that `--embeddings` names; if it
is there, the server is not asked.

Each draw holds 1,000 people out as strangers and enrolls one photo of each of N others. Probes are up to five other photos of
each enrolled person, and one photo of each stranger. The threshold is the smallest at which no more than 1 % of these
strangers are taken for somebody (FPIR). It is an oracle's threshold, since it knows these strangers; a server has to estimate it. FNIR is the share of
probes of enrolled people whose person is not the most similar of all or stays below the threshold. The table, in Markdown, gives
means over the draws and the range of the middle 95 % of them.

Of two names for one person (`--alias`) the second is left out, and so are the photos that `--exclude` names.

Needs numpy.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SIZES = (50, 100, 200, 500, 1000)  # and all but the strangers
STRANGERS = 1000
PROBES = 5
FPIR = 0.01
DRAWS = 200
KEY = "FACEID_CLIENT_KEY"


def read_names(path: Path | None) -> list[list[str]]:
    """The words of each line that is no comment."""
    lines = path.read_text().splitlines() if path else []
    return [line.split() for line in lines if line.strip() and not line.startswith("#")]


def size_of_jpeg(data: bytes) -> tuple[int, int]:
    """(width, height), from the header of the frame."""
    at = 2
    while data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7:at + 9], "big"), int.from_bytes(data[at + 5:at + 7], "big")
        at += 2 + length
    raise ValueError("not a JPEG with a frame")


def embed(photo: Path, server: str) -> tuple[list[float] | None, str]:
    """The embedding of the face nearest to the middle, None if there is no face; and the name of the model."""
    data = photo.read_bytes()
    headers = {"content-type": "image/jpeg"}
    if os.environ.get(KEY):
        headers["x-api-key"] = os.environ[KEY]
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{server}/embed", data, headers), timeout=60) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        if problem.get("code") == "no_face":
            return None, ""
        sys.exit(f"{photo}: {problem.get('detail')}")
    width, height = size_of_jpeg(data)

    def distance(face: dict) -> float:
        box = face["box"]
        return (box["x"] + box["width"] / 2 - width / 2) ** 2 + (box["y"] + box["height"] / 2 - height / 2) ** 2

    return min(found["faces"], key=distance)["embedding"], found["model"]


def embed_all(folder: Path, server: str, kept: Path) -> None:
    photos = sorted(folder.glob("*/*.jpg"))
    vectors, names, models = [], [], set()
    with ThreadPoolExecutor(2) as pool:
        for done, (photo, (vector, model)) in enumerate(zip(photos, pool.map(lambda photo: embed(photo, server), photos)), 1):
            if vector is None:
                print(f"{photo}: no face", file=sys.stderr)
            else:
                vectors.append(vector)
                names.append(f"{photo.parent.name}/{photo.stem}")
                models.add(model)
            if done % 500 == 0:
                print(f"{done} of {len(photos)} photos", file=sys.stderr)
    if len(models) != 1:
        sys.exit(f"one model was expected, not {sorted(models)}")
    np.savez(kept, embeddings=np.array(vectors, np.float32), photos=np.array(names), model=np.array(models.pop()))


def load(chosen: argparse.Namespace) -> tuple[np.ndarray, list[list[int]], str]:
    """Similarities of all pairs of photos, the photos of each person, and the name of the model."""
    with np.load(chosen.embeddings) as kept:
        embeddings, photos, model = kept["embeddings"], kept["photos"], str(kept["model"])
    doubled = {names[1] for names in read_names(chosen.alias)}
    excluded = {names[0] for names in read_names(chosen.exclude)}
    people: dict[str, list[int]] = {}
    for at, photo in enumerate(photos):
        person, name = str(photo).split("/")
        if person not in doubled and name not in excluded:
            people.setdefault(person, []).append(at)
    return embeddings @ embeddings.T, list(people.values()), model


def draw(similar: np.ndarray, people: list[list[int]], sizes: list[int], random: np.random.Generator) -> list[tuple[float, float, float]]:
    """For each size: the threshold, the share of probes whose person is not first, and FNIR."""
    order = random.permutation(len(people))
    strangers = np.array([random.choice(people[person]) for person in order[:STRANGERS]])
    enrolled, probes, owners = [], [], []
    for place, person in enumerate(order[STRANGERS:]):
        photos = random.permutation(people[person])
        enrolled.append(photos[0])
        probes.extend(photos[1:PROBES + 1])
        owners.extend([place] * len(photos[1:PROBES + 1]))
    enrolled, probes, owners = np.array(enrolled), np.array(probes), np.array(owners)
    results = []
    for size in sizes:
        named = np.sort(similar[np.ix_(strangers, enrolled[:size])].max(axis=1))[::-1]
        threshold = named[int(FPIR * STRANGERS)]  # what exceeds it is named
        here = owners < size
        scores = similar[np.ix_(probes[here], enrolled[:size])]
        own = scores[np.arange(len(scores)), owners[here]]
        first = own >= scores.max(axis=1)
        results.append((float(threshold), float(1 - first.mean()), float(1 - (first & (own > threshold)).mean())))
    return results


STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2933 }
.soft { fill: #556170 }
.paper { fill: #ffffff }
.grid { stroke: #dde2e9; stroke-width: 1 }
.band { fill: #1b6ca8; fill-opacity: 0.16 }
.line { stroke: #1b6ca8; stroke-width: 2.5; fill: none }
.dot { fill: #1b6ca8 }
.value { font-weight: 600 }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ee }
.soft { fill: #a7b1be }
.paper { fill: #161b22 }
.grid { stroke: #303843 }
.band { fill: #6cb6ff; fill-opacity: 0.2 }
.line { stroke: #6cb6ff }
.dot { fill: #6cb6ff }
}
"""


def plot(sizes: list[int], means: list[float], lows: list[float], highs: list[float], model: str, draws: int) -> str:
    width, height, left, right, top, bottom = 640, 380, 62, 600, 66, 318
    least, most = math.log10(sizes[0] * 0.85), math.log10(sizes[-1] * 1.15)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if max(highs) / step <= 6)
    ceiling = (math.floor(max(highs) / step) + 1) * step

    def x(size: float) -> float:
        return left + (math.log10(size) - least) / (most - least) * (right - left)

    def y(rate: float) -> float:
        return bottom - rate / ceiling * (bottom - top)

    points = list(zip(sizes, means))
    said = ", ".join(f"{100 * mean:.1f} % at {size:,}" for size, mean in points)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        "<title>FNIR by the size of the gallery, at an FPIR of 1 %</title>",
        f"<desc>One enrolled photo a person, {model}. FNIR is {said} enrolled people.</desc>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}" rx="8"/>',
        f'<text class="value" x="{left}" y="26">Enrolled people who are missed (FNIR)</text>',
        f'<text class="soft" x="{left}" y="45">while 1 % of strangers are taken for somebody (FPIR = 1 %)</text>',
    ]
    for mark in range(round(ceiling / step) + 1):
        at = y(mark * step)
        out.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text class="soft" x="{left - 8}" y="{at + 4.5:.1f}" text-anchor="end">{100 * mark * step:.0f} %</text>')
    outline = [(size, high) for size, high in zip(sizes, highs)] + [(size, low) for size, low in zip(sizes, lows)][::-1]
    out.append(f'<polygon class="band" points="{" ".join(f"{x(size):.1f},{y(rate):.1f}" for size, rate in outline)}"/>')
    out.append(f'<polyline class="line" points="{" ".join(f"{x(size):.1f},{y(rate):.1f}" for size, rate in points)}"/>')
    for size, mean in points:
        out.append(f'<circle class="dot" cx="{x(size):.1f}" cy="{y(mean):.1f}" r="4"/>')
        out.append(f'<text class="value" x="{x(size):.1f}" y="{y(mean) - 11:.1f}" text-anchor="middle">{100 * mean:.1f} %</text>')
        out.append(f'<text class="soft" x="{x(size):.1f}" y="{bottom + 20}" text-anchor="middle">{size:,}</text>')
    out.append(f'<text class="soft" x="{(left + right) / 2:.0f}" y="{bottom + 40}" text-anchor="middle">people in the gallery, one photo each; shaded: 95 % of {draws} draws</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="PHOTOS")
    parser.add_argument("server", metavar="URL", help=f"of a running server; a key is taken from {KEY}")
    parser.add_argument("--alias", type=Path, help="two names of one person a line")
    parser.add_argument("--exclude", type=Path, help="names of photos that are not used, without ending")
    parser.add_argument("--embeddings", type=Path, required=True, help="file (.npz) where the embeddings are kept")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--svg", type=Path, required=True, help="file of the plot")
    chosen = parser.parse_args()
    if not chosen.embeddings.exists():
        embed_all(chosen.folder, chosen.server.rstrip("/"), chosen.embeddings)
    similar, people, model = load(chosen)
    sizes = [size for size in (*SIZES, len(people) - STRANGERS) if size <= len(people) - STRANGERS]
    random = np.random.default_rng(1)
    drawn = np.array([draw(similar, people, sizes, random) for _ in range(chosen.draws)])
    means, lows, highs = drawn.mean(axis=0), *np.quantile(drawn, (0.025, 0.975), axis=0)
    print(f"{model}: {len(people):,} people, {sum(map(len, people)):,} photos, {chosen.draws} draws\n")
    print("| people in the gallery | threshold | person not first | FNIR at FPIR = 1 % | 95 % of draws |")
    print("| --- | --- | --- | --- | --- |")
    for at, size in enumerate(sizes):
        threshold, wrong, fnir = means[at]
        print(f"| {size:,} | {threshold:.3f} | {100 * wrong:.2f} % | {100 * fnir:.1f} % | {100 * lows[at, 2]:.1f} to {100 * highs[at, 2]:.1f} % |")
    chosen.svg.write_text(plot(sizes, list(means[:, 2]), list(lows[:, 2]), list(highs[:, 2]), model, chosen.draws))


if __name__ == "__main__":
    main()
