"""What should a subject with many photos be compared by? Strangers against subjects with 200 photos and with one.

    FACEID_BENCH_DIR=... python3 scripts/bench_imbalance.py --data ../shared/data

Ten people get 200 photos each (25 augmented copies of 8), 25 people one; strangers are 15 other people and the faces of
scenes. For each way to score a subject it prints how often the nearest subject of a stranger is one with many photos (the
fair share is 10 of 35), and how often subjects of both kinds match a stranger at the threshold where one comparison in a
thousand does. Runs the reference peer's pipeline, with its packages.
"""
import argparse
import os
import sys
from pathlib import Path

import cv2
import numpy as np

MANY, COPIES = 8, 25


def augmented(chip, rng):
    matrix = cv2.getRotationMatrix2D((56, 56), rng.uniform(-8, 8), rng.uniform(0.93, 1.07))
    matrix[:, 2] += rng.uniform(-4, 4, 2)
    chip = cv2.warpAffine(chip, matrix, (112, 112), borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.5:
        chip = chip[:, ::-1]
    chip = np.clip(chip.astype(float) * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20), 0, 255)
    if rng.random() < 0.3:
        chip = cv2.GaussianBlur(chip, (0, 0), rng.uniform(0.5, 2))
    return chip.astype(np.uint8)


class Pipeline:
    """The peer's networks, chip by chip."""

    def __init__(self):
        sys.path.insert(0, os.environ.get("FACEID_BENCH_DIR", "../shared/bench"))
        import peer_ort_server

        self.peer = peer_ort_server

    def embed(self, chip):
        blob = ((chip.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
        out = self.peer.embedder.run(None, {self.peer.embedder.get_inputs()[0].name: blob})[0][0]
        return out / np.linalg.norm(out)

    def chips(self, file, largest):
        image = cv2.imread(str(file))
        scale = min(1, 640 / max(image.shape[:2]))
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        faces = sorted(self.peer.detect(rgb), key=lambda face: -face[0][2] * face[0][3])
        return [self.peer.align(rgb, points) for _, _, points in faces[: 1 if largest else None]]


def scores(probes, faces, way):
    similarities = probes @ faces.T
    if way == "best face":
        return similarities.max(1)
    if way.startswith("mean of the"):
        return np.sort(similarities, 1)[:, -int(way.split()[3]):].mean(1)
    template = faces.mean(0)
    return probes @ (template / np.linalg.norm(template))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    rng, pipeline = np.random.default_rng(1), Pipeline()
    people = {}
    for name in ("lfw100", "orl"):
        folders = sorted(folder for folder in (data / name).iterdir() if folder.is_dir())
        people[name] = [[pipeline.chips(file, True)[0] for file in sorted(folder.iterdir())] for folder in folders]
    large = people["lfw100"][:5] + people["orl"][:5]
    small = people["lfw100"][5:] + people["orl"][5:25]
    gallery = [
        np.array([pipeline.embed(augmented(chip, rng)) for chip in chips[:MANY] for _ in range(COPIES)]) for chips in large
    ] + [np.array([pipeline.embed(chips[0])]) for chips in small]
    strangers = [chip for chips in people["orl"][25:] for chip in chips]
    for file in sorted((data / "scenes").iterdir()):
        if file.suffix != ".json":
            strangers += pipeline.chips(file, False)
    probes = np.array([pipeline.embed(chip) for chip in strangers])
    print(f"{len(large)} subjects with {MANY * COPIES} photos, {len(small)} with one, {len(probes)} strangers")
    print(f"| compared by | nearest is a large one (fair: {len(large) / len(gallery):.0%}) | FMR of large | FMR of small |")
    print("| --- | --- | --- | --- |")
    for way in ("best face", "mean of the 3 best", "mean of the 10 best", "template"):
        all_scores = np.array([scores(probes, faces, way) for faces in gallery])
        threshold = np.quantile(all_scores, 0.999)
        nearest = (all_scores.argmax(0) < len(large)).mean()
        fmr = [(part >= threshold).mean() for part in (all_scores[: len(large)], all_scores[len(large) :])]
        print(f"| {way} | {nearest:.0%} | {fmr[0]:.4f} | {fmr[1]:.4f} |")


if __name__ == "__main__":
    main()
