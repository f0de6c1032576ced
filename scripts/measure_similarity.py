#!/usr/bin/env python3
"""Measures what CompreFace's clients see of similarities: how many pairs of photos are on which side of their thresholds.

    python3 scripts/measure_similarity.py PHOTOS http://127.0.0.1:8080 --alias lfw_alias.txt --exclude lfw_exclude.txt \\
        --embeddings lfw.npz

PHOTOS holds one folder for each person; the embeddings are got and kept as scripts/plot_fnir.py does it, of several faces that of the
one nearest to the middle. Of two names for one person (`--alias`) the second is left out, and so are the photos that `--exclude` names.

The threshold is the calibrated one of the server's model (GET /info). Pairs of one person are all there are, pairs of different people
a million by chance. The tables, in Markdown, give the shares above thresholds that clients have, and medians, of
`(tanh((c0 - d) * c1) + 1) / 2`, where d is the distance of two embeddings and c0 that of two faces at the threshold.

Needs numpy.
"""

from __future__ import annotations

import argparse
import json
import os
import urllib.request
from pathlib import Path

import numpy as np

from plot_fnir import KEY, embed_all, load

STEEPNESS = (5.0, 6.0, 7.0)  # c1
MARKS = (0.4, 0.5, 0.6)  # Double-Take: unknown below 0.4, a match from 0.6 on; Viseron and CompreFace's own manual: 0.5
STRANGERS = 1_000_000


def calibrated(server: str) -> float:
    """The threshold of the model that answers."""
    headers = {"x-api-key": os.environ[KEY]} if os.environ.get(KEY) else {}
    with urllib.request.urlopen(urllib.request.Request(f"{server}/info", headers=headers), timeout=60) as answer:
        return json.load(answer)["model"]["threshold"]


def scaled(cosines: np.ndarray, threshold: float, steepness: float) -> np.ndarray:
    """Similarities as CompreFace's clients know them."""
    def distance(cosine: np.ndarray | float) -> np.ndarray:
        return np.sqrt(np.maximum(2 - 2 * np.asarray(cosine, np.float64), 0))

    return (np.tanh((distance(threshold) - distance(cosines)) * steepness) + 1) / 2


def pairs(similar: np.ndarray, people: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The cosines of all pairs of one person, and of pairs of different people by chance."""
    same = []
    for photos in people:
        block = similar[np.ix_(photos, photos)]
        same.append(block[np.triu_indices(len(photos), 1)])
    photos = np.concatenate([np.array(of_one) for of_one in people])
    owners = np.repeat(np.arange(len(people)), [len(of_one) for of_one in people])
    random = np.random.default_rng(1)
    different: list[np.ndarray] = []
    while sum(map(len, different)) < STRANGERS:
        one, other = random.integers(len(photos), size=(2, STRANGERS))
        apart = owners[one] != owners[other]
        different.append(similar[photos[one[apart]], photos[other[apart]]])
    return np.concatenate(same), np.concatenate(different)[:STRANGERS]


def table(cosines: np.ndarray, threshold: float) -> None:
    print(f"| c1 | {' | '.join(f'above {mark}' for mark in MARKS)} | median | lowest 1 % | highest 1 % |")
    print("| --- " * (len(MARKS) + 4) + "|")
    for steepness in STEEPNESS:
        values = scaled(cosines, threshold, steepness)
        shares = " | ".join(f"{100 * (values > mark).mean():.3f} %" for mark in MARKS)
        low, median, high = np.quantile(values, (0.01, 0.5, 0.99))
        print(f"| {steepness:g} | {shares} | {median:.3f} | {low:.3f} | {high:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="PHOTOS")
    parser.add_argument("server", metavar="URL", help=f"of a running server; a key is taken from {KEY}")
    parser.add_argument("--alias", type=Path, help="two names of one person a line")
    parser.add_argument("--exclude", type=Path, help="names of photos that are not used, without ending")
    parser.add_argument("--embeddings", type=Path, required=True, help="file (.npz) where the embeddings are kept")
    chosen = parser.parse_args()
    server = chosen.server.rstrip("/")
    if not chosen.embeddings.exists():
        embed_all(chosen.folder, server, chosen.embeddings)
    similar, people, model = load(chosen)
    threshold = calibrated(server)
    same, different = pairs(similar, people)
    middle = (2 - 2 * threshold) ** 0.5
    print(f"{model}, t = {threshold:.7f}, c0 = {middle:.4f}: {len(people):,} people, {sum(map(len, people)):,} photos")
    print(f"\n{len(same):,} pairs of one person; cosine: median {np.median(same):.3f}\n")
    table(same, threshold)
    print(f"\n{len(different):,} pairs of different people; cosine: median {np.median(different):.3f}\n")
    table(different, threshold)


if __name__ == "__main__":
    main()
