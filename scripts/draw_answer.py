"""Draws what POST /identify answered into the photo, as one SVG file.

    curl -s -F image=@group.jpg http://127.0.0.1:8080/identify > answer.json
    python3 scripts/draw_answer.py group.jpg answer.json > answer.svg

A face that is `known` gets a solid box, the subject's name and the similarity; a stranger gets a dashed box and the largest
similarity that was found. The photo is embedded as it is, so make it small before. It must be an upright JPEG or PNG: boxes are
given in the upright image, and an EXIF orientation is not applied here.

Standard library only.
"""
from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from xml.sax.saxutils import escape

FONT = 15
LETTER = 0.6 * FONT  # about the width of one
PLATE = FONT + 9
FOOT = 40
STYLE = f"""
text {{ font: {FONT}px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2933 }}
.paper {{ fill: #ffffff }}
.halo {{ fill: none; stroke: #000000; stroke-opacity: 0.45; stroke-width: 6 }}
.known {{ fill: none; stroke: #4cc38a; stroke-width: 3 }}
.stranger {{ fill: none; stroke: #ffb224; stroke-width: 3; stroke-dasharray: 9 6 }}
.plate {{ fill: #10151c; fill-opacity: 0.86 }}
.on-plate {{ fill: #ffffff }}
.name {{ font-weight: 600 }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6e9ee }}
.paper {{ fill: #161b22 }}
}}
"""


def size_of(data: bytes) -> tuple[str, int, int]:
    """(media type, width, height) of a PNG or JPEG, from its header."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png", int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    at = 2
    while data[:2] == b"\xff\xd8" and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return "image/jpeg", int.from_bytes(data[at + 7:at + 9], "big"), int.from_bytes(data[at + 5:at + 7], "big")
        at += 2 + length
    sys.exit("the photo is neither a JPEG nor a PNG")


def words(face: dict) -> tuple[str, str]:
    """What is written at a face: who it is, and how similar."""
    best = face["matches"][0] if face["matches"] else None
    if face["known"]:
        return best["subject"], f"{best['similarity']:.2f}"
    return "stranger", f"{best['similarity']:.2f} at most" if best else ""


def draw_face(face: dict, width: int, height: int) -> list[str]:
    box = face["box"]
    kind = "known" if face["known"] else "stranger"
    name, similarity = words(face)
    place = f'x="{box["x"]:.1f}" y="{box["y"]:.1f}" width="{box["width"]:.1f}" height="{box["height"]:.1f}" rx="6"'
    wide = LETTER * (len(name) + len(similarity) + (1 if similarity else 0)) + 18
    left = min(max(box["x"] + box["width"] / 2 - wide / 2, 4), width - wide - 4)
    top = box["y"] + box["height"] + 8
    if top + PLATE > height - 4:
        top = box["y"] - PLATE - 8
    return [
        f'<rect class="halo" {place}/>',
        f'<rect class="{kind}" {place}/>',
        f'<rect class="plate" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{PLATE}" rx="5"/>',
        f'<text class="on-plate name" x="{left + 9:.1f}" y="{top + FONT + 2:.1f}">{escape(name)}</text>',
        f'<text class="on-plate" x="{left + wide - 9:.1f}" y="{top + FONT + 2:.1f}" text-anchor="end">{similarity}</text>',
    ]


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    photo, answer = Path(sys.argv[1]).read_bytes(), json.loads(Path(sys.argv[2]).read_text())
    media, width, height = size_of(photo)
    faces = answer["faces"]
    said = "; ".join(" ".join(words(face)) for face in faces) or "no face"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + FOOT}" width="{width}" height="{height + FOOT}" role="img">',
        "<title>A photo with the faces that faceid found and the names that it gave them</title>",
        f"<desc>{escape(said)}; threshold {answer['threshold']:.2f}.</desc>",
        f"<style>{STYLE}</style>",
        f'<clipPath id="round"><rect width="{width}" height="{height + FOOT}" rx="8"/></clipPath>',
        '<g clip-path="url(#round)">',
        f'<rect class="paper" width="{width}" height="{height + FOOT}"/>',
        f'<image width="{width}" height="{height}" href="data:{media};base64,{base64.b64encode(photo).decode()}"/>',
        "</g>",
    ]
    for face in faces:
        out.extend(draw_face(face, width, height))
    line = height + FOOT / 2
    out.append(f'<rect class="known" x="14" y="{line - 9}" width="18" height="18" rx="3"/>')
    out.append(f'<text x="42" y="{line + 5}">known: similarity of {answer["threshold"]:.2f} or more</text>')
    out.append(f'<rect class="stranger" x="330" y="{line - 9}" width="18" height="18" rx="3"/>')
    out.append(f'<text x="358" y="{line + 5}">stranger: nobody enrolled is similar enough</text>')
    out.append("</svg>")
    print("\n".join(out))


if __name__ == "__main__":
    main()
