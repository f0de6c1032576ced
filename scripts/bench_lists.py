"""What GET /duplicates and GET /anomalies list of photos whose labels are known to be wrong in places.

    python3 scripts/bench_lists.py lfw.npz --alias lfw_alias.txt --exclude lfw_exclude.txt --url http://127.0.0.1:8080 --data-dir DATA

Imports embeddings that scripts/plot_fnir.py keeps (`--embeddings`), one of each photo, under its label as it is; waits for the
review; then tells which of the people under two names (`--alias`) and of the wrong photos (`--exclude`) stand among the first
`--first` of each list, and prints what else stands there, for somebody to look at. Needs numpy.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path

from bench_decisions import bring, kept_embeddings, line
from plot_fnir import read_names


def get(url: str) -> dict:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def reviewed(url: str, gallery: str) -> None:
    """Waits until the review has seen every subject."""
    while True:
        review = get(f"{url}/galleries/{gallery}")["review"]
        if review["reviewed"] == review["total"]:
            return
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings")
    parser.add_argument("--alias", type=Path, required=True)
    parser.add_argument("--exclude", type=Path, required=True)
    parser.add_argument("--gallery", default="labels", help="its name, of a gallery that is made")
    parser.add_argument("--first", type=int, default=50)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--data-dir", required=True, help="that of the server")
    parser.add_argument("--faceid", default="target/release/faceid")
    parser.add_argument("--postgres-dir", default=".deps/postgres")
    chosen = parser.parse_args()
    vectors, names = kept_embeddings(chosen.embeddings)
    people, photos = {person for person, _ in names}, {photo for _, photo in names}
    began = time.time()
    bring(chosen, chosen.gallery, [line(person, vector) for (person, _), vector in zip(names, vectors)])
    reviewed(chosen.url, chosen.gallery)
    print(f"{len(names)} photos of {len(people)} people reviewed in {time.time() - began:.0f} s")

    doubles = {frozenset(names) for names in read_names(chosen.alias) if people >= set(names)}
    wrong = {listed[0] for listed in read_names(chosen.exclude)} & photos
    of_wrong = {photo[:-5]: photo for photo in sorted(wrong)}
    query = f"gallery={chosen.gallery}&limit={chosen.first}"
    found: set[str] = set()

    pairs = get(f"{chosen.url}/duplicates?{query}")["items"]
    listed = {frozenset((pair["subject"], pair["other"])) for pair in pairs}
    print(f"duplicates: {len(pairs)} of the first {chosen.first}")
    for pair in pairs:
        names = {pair["subject"], pair["other"]}
        mark = "two names" if names in doubles else "wrong photo" if names & of_wrong.keys() else "look"
        found |= {of_wrong[name] for name in names & of_wrong.keys()}
        print(f"  {mark}: {pair['subject']} = {pair['other']} {pair['similarity']:.3f} p {pair['probability']:.4f}")

    anomalies = get(f"{chosen.url}/anomalies?{query}")["items"]
    print(f"anomalies: {len(anomalies)} of the first {chosen.first}")
    for anomaly in anomalies:
        subject, other = anomaly["subject"], anomaly.get("other")
        mark = "two names" if {subject, other} in doubles else "wrong photo" if subject in of_wrong else "look"
        found |= {photo for photo in wrong if photo[:-5] == subject}
        listed.add(frozenset((subject, other)))
        print(f"  {mark}: {anomaly['kind']} {subject} {other or ''} {anomaly['score']:.3f}")

    print(f"{len(doubles & listed)} of {len(doubles)} people under two names, {len(found)} of {len(wrong)} wrong photos are listed")
    print("not listed:", sorted(sorted(names) for names in doubles - listed), sorted(wrong - found))


if __name__ == "__main__":
    sys.exit(main())
