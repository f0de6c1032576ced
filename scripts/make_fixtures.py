#!/usr/bin/env python3
"""Makes the small images of tests/fixtures/images, which the tests of src/vision decode.

    pip install pillow pillow-heif
    python3 scripts/make_fixtures.py

Every image but the last is the same 48x32 pattern, so that a mirrored, turned or channel-swapped decode shows:

    red   (220, 40, 30) | green  (40, 200, 60)
    ------------------- + --------------------
    blue  (30, 60, 210) | yellow (240, 220, 40)

What a file does not say in its name: `*_orientation_N` is stored turned and carries EXIF (or TIFF)
orientation N, so that the upright image is the pattern; `*_alpha` has a half-transparent green and a
fully transparent yellow quadrant; `*_animated` goes on with a black frame; `grey` is Pillow's luma.
`groups.webp` is another image: a lossless one with several groups of prefix codes.
"""

import io
import struct
import zlib
from pathlib import Path

import pillow_heif
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "images"
WIDTH, HEIGHT = 48, 32
RED, GREEN, BLUE, YELLOW = (220, 40, 30), (40, 200, 60), (30, 60, 210), (240, 220, 40)
EXIF_ORIENTATION = 0x0112

# How the pattern is stored so that a viewer who follows EXIF orientation N sees it upright.
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def quadrants(mode, top_left, top_right, bottom_left, bottom_right):
    image = Image.new(mode, (WIDTH, HEIGHT), top_left)
    half_width, half_height = WIDTH // 2, HEIGHT // 2
    image.paste(top_right, (half_width, 0, WIDTH, half_height))
    image.paste(bottom_left, (0, half_height, half_width, HEIGHT))
    image.paste(bottom_right, (half_width, half_height, WIDTH, HEIGHT))
    return image


PATTERN = quadrants("RGB", RED, GREEN, BLUE, YELLOW)
ALPHA = quadrants("RGBA", (*RED, 255), (*GREEN, 128), (*BLUE, 255), (*YELLOW, 0))
GREY = PATTERN.convert("L")
BLACK = Image.new("RGB", (WIDTH, HEIGHT))


def oriented(name, orientation, **options):
    """Stores the pattern turned, with the tag that turns it back."""
    stored = PATTERN.transpose(STORED_AS[orientation]) if orientation in STORED_AS else PATTERN
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored.save(FOLDER / name, exif=exif.tobytes(), **options)
    upright = ImageOps.exif_transpose(Image.open(FOLDER / name)).convert("RGB")
    assert upright.size == PATTERN.size, name
    check(upright, name)


def check(image, name, tolerance=12):
    """Holds `image` to the pattern at the middle of each quadrant."""
    for x, y in ((12, 8), (36, 8), (12, 24), (36, 24)):
        want, got = PATTERN.getpixel((x, y)), image.getpixel((x, y))
        assert max(abs(a - b) for a, b in zip(want, got)) <= tolerance, (name, x, y, want, got)


def jpeg():
    PATTERN.save(FOLDER / "jpeg_baseline.jpg", quality=92, subsampling=2)
    PATTERN.save(FOLDER / "jpeg_444.jpg", quality=92, subsampling=0)
    PATTERN.save(FOLDER / "jpeg_progressive.jpg", quality=92, progressive=True)
    PATTERN.save(FOLDER / "jpeg_restarts.jpg", quality=92, restart_marker_blocks=1)
    PATTERN.save(FOLDER / "jpeg_rgb.jpg", quality=92, keep_rgb=True)
    GREY.save(FOLDER / "jpeg_grey.jpg", quality=92)
    GREY.save(FOLDER / "jpeg_grey_progressive.jpg", quality=92, progressive=True)
    # Pillow inverts CMYK as Adobe does; multiplying by a black plate darkens nothing here (K = 0).
    PATTERN.convert("CMYK").save(FOLDER / "jpeg_cmyk.jpg", quality=92)
    ycck()
    for orientation in range(1, 9):
        oriented(f"jpeg_orientation_{orientation}.jpg", orientation, quality=92)
    for name in ("baseline", "444", "progressive", "restarts", "rgb", "cmyk", "ycck"):
        check(Image.open(FOLDER / f"jpeg_{name}.jpg").convert("RGB"), name)


def ycck():
    """A YCCK JPEG: four planes of which the first three are YCbCr of the inverted inks.

    Pillow writes only CMYK, so its planes are given the YCCK values and the Adobe segment's transform
    byte is changed from 0 (CMYK) to 2 (YCCK).
    """
    ycbcr = Image.merge("RGB", [plane.point(lambda v: 255 - v) for plane in PATTERN.split()]).convert("YCbCr")
    planes = [plane.point(lambda v: 255 - v) for plane in (*ycbcr.split(), Image.new("L", PATTERN.size, 255))]
    buffer = io.BytesIO()
    Image.merge("CMYK", planes).save(buffer, "JPEG", quality=92)
    data = bytearray(buffer.getvalue())
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    (FOLDER / "jpeg_ycck.jpg").write_bytes(data)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16():
    """16-bit RGB, which Pillow cannot write."""
    rows = b""
    for y in range(HEIGHT):
        row = [value * 257 for x in range(WIDTH) for value in PATTERN.getpixel((x, y))]
        rows += b"\0" + struct.pack(f">{len(row)}H", *row)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    data = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b"")
    (FOLDER / "png_rgb16.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def png():
    PATTERN.save(FOLDER / "png_rgb.png")
    PATTERN.quantize(4).save(FOLDER / "png_palette.png")
    ALPHA.save(FOLDER / "png_alpha.png")
    GREY.save(FOLDER / "png_grey.png")
    GREY.point(lambda v: v * 257, "I").convert("I;16").save(FOLDER / "png_grey16.png")
    GREY.convert("LA").save(FOLDER / "png_grey_opaque.png")
    png16()
    oriented("png_orientation_6.png", 6)


def webp():
    PATTERN.save(FOLDER / "webp_lossy.webp", quality=92)
    PATTERN.save(FOLDER / "webp_lossless.webp", lossless=True)
    ALPHA.save(FOLDER / "webp_lossless_alpha.webp", lossless=True, exact=True)
    ALPHA.save(FOLDER / "webp_lossy_alpha.webp", quality=92)
    PATTERN.save(FOLDER / "webp_animated.webp", save_all=True, append_images=[BLACK], duration=100, quality=92)
    oriented("webp_orientation_6.webp", 6, quality=92)
    prefix_codes().save(FOLDER / "groups.webp", lossless=True, method=6, quality=100)


def prefix_codes():
    """160x160 pixels whose parts are so unlike that an encoder gives them prefix codes of their own."""
    state = 1
    pixels = []
    for at in range(160 * 160):
        x, y = at % 160, at // 160
        state = (state * 1664525 + 1013904223) % 2**32
        noise = state >> 24
        parts = [(x, y, 90), (noise % 9, 200, noise % 17), (noise, noise // 2, 255 - noise), (x * y % 251, x, y)]
        pixels.append(parts[x // 80 + y // 80 * 2])
    image = Image.new("RGB", (160, 160))
    image.putdata(pixels)
    return image


def gif():
    palette = PATTERN.quantize(4)
    palette.save(FOLDER / "gif_still.gif")
    PATTERN.save(FOLDER / "gif_animated.gif", save_all=True, append_images=[BLACK], duration=100)
    # Yellow, the last quadrant, is the transparent colour.
    palette.save(FOLDER / "gif_transparent.gif", transparency=palette.getpixel((36, 24)))


def bmp():
    PATTERN.save(FOLDER / "bmp_rgb.bmp")
    PATTERN.quantize(4).save(FOLDER / "bmp_palette.bmp")


def tiff():
    PATTERN.save(FOLDER / "tiff_rgb.tiff")
    PATTERN.save(FOLDER / "tiff_lzw.tiff", compression="tiff_lzw")
    PATTERN.convert("CMYK").save(FOLDER / "tiff_cmyk.tiff")
    GREY.point(lambda v: v * 257, "I").convert("I;16").save(FOLDER / "tiff_grey16.tiff")
    ALPHA.save(FOLDER / "tiff_alpha.tiff")
    oriented("tiff_orientation_6.tiff", 6)


def heic():
    pillow_heif.register_heif_opener()
    PATTERN.save(FOLDER / "heic_still.heic", quality=90, chroma=444)
    ALPHA.save(FOLDER / "heic_alpha.heic", quality=90, chroma=444)
    # EXIF says it, and so does the container, which alone is to be followed.
    oriented("heic_orientation_6.heic", 6, quality=90, chroma=444)


def large_heic():
    """Large images in small files, to measure what decoding takes."""
    folder = FOLDER.parent / "heic"
    folder.mkdir(exist_ok=True)
    gradient = Image.linear_gradient("L").resize((4000, 3000)).convert("RGB")
    gradient.save(folder / "whole.heic", quality=20, tile_size=0)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    gradient.save(folder / "turned_tiles.heic", quality=20, tile_size=512, exif=exif.tobytes())


def pnm():
    PATTERN.save(FOLDER / "pnm_rgb.ppm")
    GREY.save(FOLDER / "pnm_grey.pgm")
    samples = [GREY.getpixel((x, y)) * 257 for y in range(HEIGHT) for x in range(WIDTH)]
    header = f"P5\n{WIDTH} {HEIGHT}\n65535\n".encode()
    (FOLDER / "pnm_grey16.pgm").write_bytes(header + struct.pack(f">{len(samples)}H", *samples))


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for make in (jpeg, png, webp, gif, bmp, tiff, heic, large_heic, pnm):
        make()
    files = sorted(FOLDER.iterdir())
    print(f"{len(files)} images, {sum(f.stat().st_size for f in files)} bytes in {FOLDER}")
