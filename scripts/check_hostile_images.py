"""Sends a server images that are small as files and large in memory, and prints what they cost.

    make build
    python3 scripts/check_hostile_images.py target/release/faceid

Starts the given program on a data folder that is deleted afterwards, and posts to /detect each of: GIFs with a frame
larger than the canvas, float TIFFs, a 16-bit PNG and a progressive JPEG near the limit of pixels. For each it prints the
resident memory before, and its peak for one, for two at once, for twelve that wait for their answers and for a hundred that
hang up before they have one. Then it posts PNGs with a colour profile of 30 MB, forty at a time, and prints how long
other requests take meanwhile. A server without limits may need 6 GB. Needs Python's standard library only, and Linux.
"""
import argparse
import collections
import http.client
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

SIDE = 8000  # 64 million pixels, about the largest that fit the budget in every format
PATIENCE = 300  # seconds that an answer may take


# Files

def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deflated(block, count):
    packer = zlib.compressobj(6)
    return b"".join([*(packer.compress(block) for _ in range(count)), packer.flush()])


def png(width, height, depth, colour, row_bytes, profile=None):
    """All samples 0."""
    chunks = [png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    if profile:
        chunks.append(png_chunk(b"iCCP", b"profile\0\0" + profile))
    chunks += [png_chunk(b"IDAT", deflated(bytes(1 + row_bytes), height)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


class Bits:
    def __init__(self):
        self.value, self.count, self.bytes = 0, 0, bytearray()

    def put(self, code, width):
        """The lowest bit first, as in GIF."""
        self.value |= code << self.count
        self.count += width
        while self.count >= 8:
            self.bytes.append(self.value & 0xFF)
            self.value >>= 8
            self.count -= 8

    def all(self):
        return bytes(self.bytes) + (bytes([self.value]) if self.count else b"")


def lzw_of_zeros(count):
    """Each code stands for one pixel more than the last, until the table is full; then the longest again and again."""
    clear, end, bits, width = 4, 5, Bits(), 3
    bits.put(clear, width)
    bits.put(0, width)
    count -= 1
    code = end + 1
    while count > 0:
        pixels = code - end + 1
        if pixels > count:
            bits.put(end + count - 1 if count > 1 else 0, width)
            break
        bits.put(code, width)
        count -= pixels
        if code < 4095:
            code += 1
            if code == 1 << width and width < 12:
                width += 1
    bits.put(end, width)
    return bits.all()


def gif(canvas, frame):
    data = lzw_of_zeros(frame[0] * frame[1])
    blocks = b"".join(bytes([len(part)]) + part for part in (data[i:i + 255] for i in range(0, len(data), 255)))
    return (b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x81, 0, 0) + bytes(range(12))
            + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02" + blocks + b"\0;")


def float_tiff(side, rows):
    """RGBA of 32-bit floats, deflated in strips of so many rows."""
    strips = -(-side // rows)
    strip = deflated(bytes(side * 16), rows)
    last = deflated(bytes(side * 16), side - rows * (strips - 1))
    data = strip * (strips - 1) + last
    lengths = [len(strip)] * (strips - 1) + [len(last)]
    offsets = [8 + sum(lengths[:number]) for number in range(strips)] if strips < 2000 else sys.exit("too many strips")
    lists, tags = b"", []
    base = 8 + len(data)

    def tag(number, kind, values):
        nonlocal lists
        packed = struct.pack("<" + {3: "H", 4: "I"}[kind] * len(values), *values)
        if len(packed) > 4:
            packed, where = struct.pack("<I", base + len(lists)), packed
            lists += where
        tags.append(struct.pack("<HHI", number, kind, len(values)) + packed.ljust(4, b"\0"))

    for number, kind, values in [
        (256, 4, [side]), (257, 4, [side]), (258, 3, [32] * 4), (259, 3, [8]), (262, 3, [2]), (273, 4, offsets),
        (277, 3, [4]), (278, 4, [rows]), (279, 4, lengths), (338, 3, [2]), (339, 3, [3] * 4),
    ]:
        tag(number, kind, values)
    directory = struct.pack("<H", len(tags)) + b"".join(tags) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", base + len(lists)) + data + lists + directory


def progressive_jpeg(side):
    """Three planes of the same size, and one scan: of the first coefficient of every block, which is 0."""
    def segment(marker, data):
        return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
    size = struct.pack(">BHHB", 8, side, side, 3) + b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    codes = bytes([0, 1] + [0] * 15) + b"\0"  # one code of one bit, for a difference of 0
    scan = b"\x03" + b"".join(bytes([number, 0]) for number in (1, 2, 3)) + bytes([0, 0, 0])
    blocks = 3 * (-(-side // 8)) ** 2
    return (b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, size) + segment(0xC4, codes)
            + segment(0xDA, scan) + bytes(-(-blocks // 8)) + b"\xff\xd9")


# The server

class Server:
    def __init__(self, binary, folder, port, arguments):
        self.port = port
        command = [binary, "serve", "--log", "error", "--bind", f"127.0.0.1:{port}", "--data-dir", folder, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(1200):
            if self.process.poll() is not None:
                sys.exit("the server ended before it was ready")
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        sys.exit("the server does not become ready")

    def ask(self, method, path, body=None, media_type=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request(method, path, body, {"content-type": media_type} if media_type else {})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def post(self, image, statuses):
        try:
            status, answer = self.ask("POST", "/detect", image, "image/any")
            code = answer.decode(errors="replace").split('"code":"')
            statuses.append(f"{status} {code[1].split(chr(34))[0]}" if len(code) > 1 else str(status))
        except (OSError, http.client.HTTPException) as error:
            statuses.append(type(error).__name__)

    def post_and_hang_up(self, image, seconds):
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            head = f"POST /detect HTTP/1.1\r\nhost: x\r\ncontent-type: image/any\r\ncontent-length: {len(image)}\r\n\r\n"
            connection.sendall(head.encode() + image)
            time.sleep(seconds)

    def memory(self, which):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(which)) * 1024

    def forget_peak(self):
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as file:
            file.write("5")

    def rest(self):
        """Waits until it does nothing any more."""
        def used():
            with open(f"/proc/{self.process.pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])
        still, before = 0, used()
        while still < 4:
            time.sleep(0.5)
            now = used()
            still = still + 1 if now - before <= 3 else 0
            before = now

    def stop(self):
        self.process.terminate()
        self.process.wait()


def at_once(work, count):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def memory_of(server, image):
    """What the server holds, its peaks for one, two, twelve and a hundred that hang up, and the answers."""
    peaks, statuses = [], []

    def peak(load):
        server.rest()
        server.forget_peak()
        load()
        server.rest()
        peaks.append(server.memory("VmHWM:"))

    server.rest()
    before = server.memory("VmRSS:")
    for count in (1, 2, 12):
        peak(lambda: at_once(lambda: server.post(image, statuses), count))
    patience = iter(range(1, 101))
    peak(lambda: at_once(lambda: server.post_and_hang_up(image, 0.02 * next(patience)), 100))
    return before, peaks, collections.Counter(statuses)


def latencies(server, image, rounds, at_a_time):
    """Milliseconds of a cheap request while such images come in, and as many times before they do."""
    taken, posting = [], True

    def one():
        began = time.perf_counter()
        server.ask("GET", "/galleries/default")
        taken.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.02)

    def probe():
        while posting:
            one()

    for _ in range(100):
        one()
    alone, taken = taken, []
    probing = threading.Thread(target=probe)
    probing.start()
    statuses = []
    for _ in range(rounds):
        at_once(lambda: server.post(image, statuses), at_a_time)
    posting = False
    probing.join()
    return alone, taken, collections.Counter(statuses)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--port", type=int, default=9188)
    parser.add_argument("--only", help="images whose names contain this")
    parser.add_argument("--serve", default="", help="further arguments of `faceid serve`")
    args = parser.parse_args()
    images = {
        "GIF, frame 20000x20000, canvas 100x100": lambda: gif((100, 100), (20000, 20000)),
        f"GIF, frame {SIDE}x{SIDE}, canvas 100x100": lambda: gif((100, 100), (SIDE, SIDE)),
        "float TIFF, one strip": lambda: float_tiff(SIDE, SIDE),
        "float TIFF, strips of 64 rows": lambda: float_tiff(SIDE, 64),
        "16-bit PNG": lambda: png(SIDE, SIDE, 16, 6, SIDE * 8),
        "progressive JPEG": lambda: progressive_jpeg(SIDE),
    }
    print(f"{'resident memory, MB':40} {'file':>7} {'before':>7} {'one':>6} {'two':>6} {'twelve':>7} {'hung up':>8}  answers")
    for name, make in images.items():
        if args.only and args.only not in name:
            continue
        image = make()
        with tempfile.TemporaryDirectory(prefix="faceid-hostile-") as folder:
            os.chmod(folder, 0o755)
            server = Server(args.binary, folder, args.port, args.serve.split())
            try:
                before, peaks, statuses = memory_of(server, image)
            finally:
                server.stop()
        one, two, twelve, hung_up = (round(peak / 1e6) for peak in peaks)
        told = ", ".join(f"{count} x {status}" for status, count in statuses.items())
        print(f"{name:40} {len(image) / 1e6:7.3f} {round(before / 1e6):7} {one:6} {two:6} {twelve:7} {hung_up:8}  {told}",
              flush=True)
    if args.only and args.only not in "profile":
        return
    image = png(64, 48, 8, 2, 64 * 3, deflated(bytes(1 << 20), 30))
    with tempfile.TemporaryDirectory(prefix="faceid-hostile-") as folder:
        os.chmod(folder, 0o755)
        server = Server(args.binary, folder, args.port, args.serve.split())
        try:
            alone, busy, statuses = latencies(server, image, 5, 40)
        finally:
            server.stop()
    print("\nGET /galleries/default, ms           median   worst")
    for name, taken in (("alone", alone), ("40 PNGs with a profile at a time", busy)):
        print(f"{name:34} {statistics.median(taken):8.1f} {max(taken):7.1f}")
    print(", ".join(f"{count} x {status}" for status, count in statuses.items()))


if __name__ == "__main__":
    main()
