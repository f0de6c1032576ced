"""What a server finds on photos as people take them: small faces on large photos, turned and spoiled photos.

    python3 scripts/bench_photos.py groups LFW --background PHOTO [--pid PID] [--details fast auto full]
    python3 scripts/bench_photos.py empty SCENES
    python3 scripts/bench_photos.py people LFW
    python3 scripts/bench_photos.py turned LFW [--photos 500]
    python3 scripts/bench_photos.py spoiled LFW [--photos 100]

`groups` pastes faces of LFW (a folder of people) on a background of 12 megapixels, 40 of them so that their boxes are 120, 80,
60, 40 and 30 pixels wide, 20 on a panorama and 24 on a frame of a 4K camera, and counts which of them each `detail` finds, how
many boxes there are beside them, and how many are nearest to their own photo; `--pid` is the server's, for the processor's time.
`empty` cuts 50 pieces without a face out of photos (a folder with their noses in truth.json) and counts the boxes on them.
`people` takes every photo of LFW: whether its central face is found and usable, and whether the first photo of the same person
is the nearest of the first photos of all.
`turned` and `spoiled` change photos of one face and compare its embedding with that of the whole photo. Silent failures are
faces that are called usable and are below the threshold.

Needs numpy and Pillow; the server is that of `--url`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable

import numpy as np
from PIL import Image, ImageFilter

ROUNDS = 7
GROUPS = [(f"4000x3000, {width} px", (4000, 3000), 8, 5, width) for width in (120, 80, 60, 40, 30)]
GROUPS += [("6000x1200, 60 px", (6000, 1200), 10, 2, 60), ("3840x2160, 40 px", (3840, 2160), 8, 3, 40)]


class Server:
    def __init__(self, url: str, pid: int | None = None):
        self.url, self.pid = url, pid

    def post(self, path: str, photo: bytes) -> dict:
        request = urllib.request.Request(self.url + path, photo, {"Content-Type": "image/jpeg"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            if problem["code"] != "no_face":
                raise SystemExit(f"bench: {problem['detail']}") from None
            return {"faces": []}

    def embedded(self, image: Image.Image, query: str = "") -> list[dict]:
        return self.post(f"/embed{query}", encoded(image))["faces"]

    def seconds(self) -> float:
        """Of the processor, so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def encoded(image: Image.Image, quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def photos_of(folder: Path, count: int) -> list[Path]:
    people = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [sorted(person.glob("*.jpg"))[0] for person in people]
    return files[:: max(1, len(files) // count)][:count]


def nearest(faces: list[dict], x: float, y: float) -> dict | None:
    def distance(face: dict) -> float:
        box = face["box"]
        return float(np.hypot(box["x"] + box["width"] / 2 - x, box["y"] + box["height"] / 2 - y))

    return min(faces, key=distance, default=None)


def central(faces: list[dict], image: Image.Image) -> dict | None:
    return nearest(faces, image.width / 2, image.height / 2)


def group(sources: list[tuple[Image.Image, dict]], background: Image.Image, size: tuple[int, int], columns: int, rows: int, width: int):
    canvas = background.resize(size, Image.Resampling.BICUBIC)
    places = []
    for number, (photo, face) in zip(range(columns * rows), sources):
        box, scale = face["box"], width / face["box"]["width"]
        small = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)
        x = (number % columns + 0.5) * size[0] / columns
        y = (number // columns + 0.5) * size[1] / rows
        canvas.paste(small, (round(x - (box["x"] + box["width"] / 2) * scale), round(y - (box["y"] + box["height"] / 2) * scale)))
        places.append((x, y))
    return canvas, places


def groups(server: Server, options: argparse.Namespace) -> None:
    sources = []
    for path in photos_of(options.folder, 60):
        photo = Image.open(path).convert("RGB")
        faces = server.embedded(photo)
        if len(faces) == 1:
            sources.append((photo, faces[0]))
    background = Image.open(options.background).convert("RGB")
    embeddings = np.array([face["embedding"] for _, face in sources])
    print("| photo | detail | found | boxes beside | nearest to their own photo | looks | ms of the processor | megapixels/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, size, columns, rows, width in GROUPS:
        canvas, places = group(sources, background, size, columns, rows, width)
        photo = encoded(canvas, 92)
        for detail in options.details:
            answer = server.post(f"/embed?detail={detail}", photo)
            own, found = 0, 0
            for number, (x, y) in enumerate(places):
                face = nearest(answer["faces"], x, y)
                if face is None or abs(face["box"]["x"] + face["box"]["width"] / 2 - x) > width / 2:
                    continue
                found += 1
                own += int(np.argmax(embeddings @ np.array(face["embedding"])) == number)
            looks = answer.get("searched", {}).get("looks", "")
            cost = cpu(server, f"/detect?detail={detail}", photo)
            speed = f"{size[0] * size[1] / 1e3 / float(cost):.0f}" if cost else ""
            print(f"| {name} | {detail} | {found} of {len(places)} | {max(0, len(answer['faces']) - found)} | {own} | {looks} | {cost} | {speed} |", flush=True)


def cpu(server: Server, path: str, photo: bytes) -> str:
    if server.pid is None:
        return ""
    begun = server.seconds()
    for _ in range(ROUNDS):
        server.post(path, photo)
    return f"{(server.seconds() - begun) / ROUNDS * 1e3:.0f}"


def empty(server: Server, options: argparse.Namespace) -> None:
    noses = json.loads((options.folder / "truth.json").read_text())["noses"]
    random, pieces = np.random.default_rng(3), []
    for number in range(10_000):
        name = sorted(noses)[number % len(noses)]
        photo = Image.open(options.folder / name).convert("RGB")
        # Whole heads, of portraits as of groups.
        margin = (0.2 if len(noses[name]) < 3 else 0.12) * max(photo.size)
        width, height = (int(side * random.uniform(0.2, 0.6)) for side in photo.size)
        left, top = (int(random.uniform(0, whole - part)) for whole, part in zip(photo.size, (width, height)))
        near = [
            left - margin < x < left + width + margin and top - margin < y < top + height + margin for x, y in noses[name]
        ]
        if min(width, height) >= 100 and not any(near):
            pieces.append((name, photo.crop((left, top, left + width, top + height))))
        if len(pieces) == 50:
            break
    sizes = [piece.width * piece.height / 1e6 for _, piece in pieces]
    print(f"{len(pieces)} pieces of {len({name for name, _ in pieces})} photos, {min(sizes):.2f} to {max(sizes):.1f} megapixels\n")
    print("| detail | pieces with a box | boxes | highest score |")
    print("| --- | --- | --- | --- |")
    for detail in options.details:
        found = [server.post(f"/detect?detail={detail}", encoded(piece))["faces"] for _, piece in pieces]
        scores = [face["detection_score"] for faces in found for face in faces]
        print(f"| {detail} | {sum(map(bool, found))} | {len(scores)} | {max(scores, default=0):.3f} |", flush=True)


def people(server: Server, options: argparse.Namespace) -> None:
    first, others, counts = [], [], np.zeros(4, int)
    for person in sorted(path for path in options.folder.iterdir() if path.is_dir()):
        for number, path in enumerate(sorted(person.glob("*.jpg"))):
            photo = path.read_bytes()
            answer = server.post("/embed", photo)
            face = nearest(answer["faces"], 125, 125)
            counts += [1, face is not None, len(answer["faces"]), face is not None and face.get("usable", True)]
            if face is not None:
                (others if number else first).append((person.name, face["embedding"]))
    gallery = np.array([embedding for _, embedding in first])
    names = [name for name, _ in first]
    right = sum(names[int(np.argmax(gallery @ np.array(embedding)))] == name for name, embedding in others)
    photos, found, boxes, usable = counts
    print("| photos | central face found | all boxes | central face usable | people | further photos | nearest to their own person |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(f"| {photos} | {found} | {boxes} | {usable} | {len(names)} | {len(others)} | {right} ({100 * right / len(others):.1f} %) |")


def compare(server: Server, options: argparse.Namespace, changes: list[tuple[str, Callable[[Image.Image, dict], Image.Image]]]) -> None:
    photos = []
    for path in photos_of(options.folder, options.photos):
        photo = Image.open(path).convert("RGB")
        face = central(server.embedded(photo), photo)
        if face is not None:
            photos.append((photo, face))
    print(f"{len(photos)} photos; threshold {options.threshold}\n")
    print("| change | found | usable | reach the threshold | usable, below it (silent) | refused, though they reach it |")
    print("| --- | --- | --- | --- | --- | --- |")
    total = np.zeros(5)
    for name, change in changes:
        counts = np.zeros(5)
        for photo, face in photos:
            faces = server.embedded(change(photo, face))
            if not faces:
                continue
            similarities = [float(np.dot(face["embedding"], other["embedding"])) for other in faces]
            best = int(np.argmax(similarities))
            reaches, usable = similarities[best] >= options.threshold, faces[best].get("usable", True)
            counts += [1, usable, reaches, usable and not reaches, reaches and not usable]
        total += counts
        print(f"| {name} | " + " | ".join(f"{100 * count / len(photos):.1f} %" for count in counts) + " |", flush=True)
    print("| all | " + " | ".join(f"{100 * count / len(photos) / len(changes):.1f} %" for count in total) + " |")


def turned(server: Server, options: argparse.Namespace) -> None:
    turns = [("90", Image.Transpose.ROTATE_270), ("180", Image.Transpose.ROTATE_180), ("270", Image.Transpose.ROTATE_90)]
    compare(server, options, [(name, lambda photo, _, turn=turn: photo.transpose(turn)) for name, turn in turns])


def spoiled(server: Server, options: argparse.Namespace) -> None:
    noise = np.random.default_rng(1)

    def blur(radius: float):
        return lambda photo, _: photo.filter(ImageFilter.GaussianBlur(radius))

    def shrunk(share: float):
        return lambda photo, _: photo.resize((round(photo.width * share), round(photo.height * share)), Image.Resampling.LANCZOS)

    def jpeg(quality: int):
        return lambda photo, _: Image.open(io.BytesIO(encoded(photo, quality))).convert("RGB")

    def light(factor: float, grain: float):
        def change(photo: Image.Image, _: dict) -> Image.Image:
            values = np.asarray(photo, np.float32) * factor
            return Image.fromarray(np.clip(values + noise.normal(0, grain, values.shape), 0, 255).astype(np.uint8))

        return change

    def covered(share: float):
        def change(photo: Image.Image, face: dict) -> Image.Image:
            box, values = face["box"], np.asarray(photo).copy()
            top = int(box["y"] + box["height"] * (1 - share))
            left, right = int(max(0, box["x"] - 5)), int(box["x"] + box["width"] + 5)
            values[max(0, top) : int(box["y"] + 1.1 * box["height"]), left:right] = (90, 120, 150)
            return Image.fromarray(values)

        return change

    changes = [(f"blurred, radius {radius}", blur(radius)) for radius in (1, 2, 3, 4, 6)]
    changes += [(f"shrunk to {share:.0%}", shrunk(share)) for share in (0.4, 0.25, 0.18)]
    changes += [(f"JPEG, quality {quality}", jpeg(quality)) for quality in (20, 10, 5)]
    changes += [(f"darkened to {factor:.0%}", light(factor, 2)) for factor in (0.3, 0.1, 0.05)]
    changes += [(f"overexposed {factor} times", light(factor, 0)) for factor in (1.5, 2.5, 4)]
    changes += [(f"lower {share:.0%} covered", covered(share)) for share in (0.25, 0.4, 0.5, 0.6)]
    compare(server, options, changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["groups", "empty", "people", "turned", "spoiled"])
    parser.add_argument("folder", type=Path, help="of LFW, or of scenes")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--background", type=Path)
    parser.add_argument("--details", nargs="+", default=["fast", "auto", "full"])
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--threshold", type=float, default=0.423, help="of the model for a pair")
    options = parser.parse_args()
    if options.what == "groups" and options.background is None:
        parser.error("groups: --background is needed")
    {"groups": groups, "empty": empty, "people": people, "turned": turned, "spoiled": spoiled}[options.what](Server(options.url, options.pid), options)


if __name__ == "__main__":
    main()
