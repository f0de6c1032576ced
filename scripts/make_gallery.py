#!/usr/bin/env python3
"""Writes a made gallery for `faceid import`: embeddings of people who do not exist, to try faceid at size.

Each person is a random direction, drawn around one of some hundred common ones, as real faces are not spread evenly;
each of their faces is that direction with noise, so that two faces of a person have a similarity of about 0.6, and
those of different people one of about 0, 0.25 at most. The same seed gives the same file. Needs numpy.

Example: python3 scripts/make_gallery.py 100000 | faceid import - --data-dir ./data
"""

import argparse
import base64
import json
import sys
import uuid

import numpy

# MobileFaceNet-512, `--embedder fast`.
MODEL = {
    "name": "mobilefacenet-512",
    "sha256": "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581",
    "dimension": 512,
}
CROWDS = 100
PEOPLE_AT_ONCE = 2000


def main():
    args = arguments()
    random = numpy.random.default_rng(args.seed)
    model = MODEL | {"dimension": args.dimension}
    if args.model_sha256:
        model |= {"name": args.model_sha256[:12], "sha256": args.model_sha256}
    header = {"faceid": 1, "gallery": args.gallery, "model": model, "policy": None}
    out = sys.stdout.buffer
    out.write(json.dumps(header).encode() + b"\n")
    crowds = unit(random.standard_normal((CROWDS, args.dimension), dtype=numpy.float32))
    people = -(-args.faces // args.per_subject)
    for first in range(0, people, PEOPLE_AT_ONCE):
        write_people(out, args, random, crowds, first, min(people, first + PEOPLE_AT_ONCE))
    out.flush()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=int, help="how many faces")
    parser.add_argument("--per-subject", type=int, default=5, help="faces of each subject (default: 5)")
    parser.add_argument("--dimension", type=int, default=512, help="of the embeddings (default: 512)")
    parser.add_argument("--gallery", default="made", help="name of the gallery (default: made)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: 1)")
    parser.add_argument("--model-sha256", help="of the model they are of (default: that of MobileFaceNet-512)")
    return parser.parse_args()


def write_people(out, args, random, crowds, first, end):
    shape = (end - first, args.dimension)
    own = unit(random.standard_normal(shape, dtype=numpy.float32))
    people = unit(own + 0.35 * crowds[random.integers(len(crowds), size=end - first)])
    people = numpy.repeat(people, args.per_subject, axis=0)
    noise = unit(random.standard_normal(people.shape, dtype=numpy.float32))
    vectors = unit(people + 0.8 * noise).astype("<f2")
    ids = random.bytes(7 * len(vectors))
    for at, vector in enumerate(vectors):
        face = first * args.per_subject + at
        if face >= args.faces:
            break
        line = '{"subject":"person %d","face_id":"%s","embedding":"%s"}\n' % (
            first + at // args.per_subject,
            # Ids that sort as they were made, like those of faceid.
            uuid.UUID(bytes=face.to_bytes(6, "big") + b"\x70\x00\x80" + ids[7 * at : 7 * at + 7]),
            base64.b64encode(vector.tobytes()).decode(),
        )
        out.write(line.encode())


def unit(vectors):
    return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
