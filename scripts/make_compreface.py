#!/usr/bin/env python3
"""Makes a database as CompreFace 1.2 has it, filled with photos of a folder, to try `faceid migrate-from compreface` on.

    python3 scripts/make_compreface.py postgres://me@localhost/frs ../shared/data/lfw --photos 5000 --server http://127.0.0.1:8080

The tables are those of CompreFace's own migrations that hold services, subjects and examples. The embeddings are those of the server
that is named, best one with another embedder than the one that photos are migrated to (`faceid serve --embedder fast`): so there
are real answers of another model to compare with. Photos without a face are left out, as CompreFace would have refused them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

SPACE = uuid.UUID("6f1c9f0e-4a57-4f0e-9a53-2f9a3a0b8a11")  # ids depend on the names of files alone
CALCULATOR = "insightface.Calculator@arcface_mobilefacenet"
IN_WORK = 8
SCHEMA = """
drop table if exists embedding, img, subject, model, app cascade;
create table app (
    id bigint constraint pk_app primary key, name varchar(255) not null, guid varchar(36) not null unique,
    api_key varchar(36) not null unique
);
create table model (
    id bigint constraint pk_model primary key, name varchar(255) not null, guid varchar(36) not null unique,
    app_id bigint not null references app (id) on delete cascade, api_key varchar(36) not null constraint model_api_key_uindex unique,
    type varchar(1) not null, created_date timestamp, constraint app_name_app_id_uindex unique (name, app_id)
);
create table subject (
    id uuid constraint pk_subject primary key, api_key varchar(36) references model (api_key) on delete cascade on update cascade,
    subject_name varchar(255), constraint api_key_subject_name_uindex unique (api_key, subject_name)
);
create table img (id uuid constraint pk_img primary key, content bytea not null);
create table embedding (
    id uuid constraint pk_embedding primary key, subject_id uuid references subject (id) on delete cascade on update cascade,
    embedding float8[] not null, calculator varchar(255) not null, img_id uuid references img (id)
);
"""


def main() -> int:
    options = parse_arguments()
    photos = choose(options.folder, options.photos)
    key = str(uuid.uuid5(SPACE, options.service))
    services = f"""
        insert into app values (1, 'Office', '{uuid.uuid5(SPACE, "app")}', '{uuid.uuid5(SPACE, "app key")}');
        insert into model values (1, '{options.service}', '{uuid.uuid5(SPACE, "model")}', 1, '{key}', 'R', now()),
            (2, 'detection', '{uuid.uuid5(SPACE, "model 2")}', 1, '{uuid.uuid5(SPACE, "detection")}', 'D', now());
    """
    command = ["psql", "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", options.url]
    subprocess.run(command, input=SCHEMA + services, text=True, check=True, stdout=subprocess.DEVNULL)
    people = sorted({photo.parent.name for photo in photos})
    copy(command, "subject", (f"{subject_id(name)}\t{key}\t{name}\n" for name in people))
    written = 0
    with ThreadPoolExecutor(IN_WORK) as workers:
        for start in range(0, len(photos), 500):
            part = photos[start : start + 500]
            embedded = [(photo, vector) for photo, vector in zip(part, workers.map(options.embed, part)) if vector]
            copy(command, "img", (f"{image_id(photo)}\t\\\\x{photo.read_bytes().hex()}\n" for photo, _ in embedded))
            copy(command, "embedding", (row(photo, vector) for photo, vector in embedded))
            written += len(embedded)
            print(f"{written} of {len(photos)} photos", file=sys.stderr)
    print(json.dumps({"photos": written, "without_face": len(photos) - written, "subjects": len(people), "api_key": key}))
    return 0


def choose(folder: Path, most: int) -> list[Path]:
    """The photos of those who have most, as each example is to have others of its subject."""
    people = [sorted(person.glob("*.jpg")) for person in sorted(folder.iterdir()) if person.is_dir()]
    people.sort(key=len, reverse=True)
    return [photo for photos in people for photo in photos][:most]


def embed(server: str, photo: Path) -> list[float] | None:
    request = Request(f"{server}/embed?max_faces=1", photo.read_bytes(), {"Content-Type": "image/jpeg"})
    try:
        with urlopen(request) as answer:
            return json.load(answer)["faces"][0]["embedding"]
    except HTTPError as error:
        if error.code == 422:
            return None
        raise


def subject_id(name: str) -> uuid.UUID:
    return uuid.uuid5(SPACE, f"subject {name}")


def image_id(photo: Path) -> uuid.UUID:
    return uuid.uuid5(SPACE, f"image {photo.name}")


def row(photo: Path, vector: list[float]) -> str:
    numbers = ",".join(map(repr, vector))
    example = uuid.uuid5(SPACE, f"example {photo.name}")
    return f"{example}\t{subject_id(photo.parent.name)}\t{{{numbers}}}\t{CALCULATOR}\t{image_id(photo)}\n"


def copy(command: list[str], table: str, rows: Iterator[str]) -> None:
    process = subprocess.Popen([*command, "--command", f"copy {table} from stdin"], stdin=subprocess.PIPE, text=True)
    with process.stdin as pipe:
        pipe.writelines(rows)
    if process.wait() != 0:
        sys.exit(f"cannot fill {table}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of an empty database, as psql takes it; its tables of these names are dropped")
    parser.add_argument("folder", type=Path, help="with a folder of photos (*.jpg) for each person")
    parser.add_argument("--photos", type=int, default=5000, help="at most (default: 5000)")
    parser.add_argument("--service", default="doors", help="name of the recognition service (default: doors)")
    parser.add_argument("--server", default="http://127.0.0.1:8080", help="a running faceid that makes the embeddings")
    options = parser.parse_args()
    options.embed = lambda photo: embed(options.server, photo)
    return options


if __name__ == "__main__":
    sys.exit(main())
