"""What forms cost a server that are no forms, or that come in small pieces, and whether a slow model arrives.

    make build
    python3 scripts/check_hostile_forms.py target/release/faceid

Starts the server with a folder of its own, sends it what a hostile or slow client would, and prints for each the answer,
the most memory that was resident, and the CPU time that was taken. Needs Python's standard library only.
"""
import argparse
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BOUNDARY = b"boundary-of-the-form"
PATIENCE = 600  # seconds that a start or an answer may take
FORMS, PHOTO = 20, 4_000_000
PHOTO_PIECE = 100


class Server:
    def __init__(self, binary, port, *arguments):
        self.port = port
        self.folder = tempfile.mkdtemp(prefix="faceid-forms-")
        os.chmod(self.folder, 0o755)  # the private Postgres may run as another user
        command = [binary, "serve", "--log", "error", "--bind", f"127.0.0.1:{port}", "--data-dir", self.folder, *arguments]
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while self.ask(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the server does not become ready")
            time.sleep(0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, request):
        try:
            return self.send([request])[0]
        except OSError:
            return None

    def send(self, pieces, seconds_between=0.0):
        """Sends pieces until they end or the server answers: the status, and the bytes that were sent."""
        sent = 0
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            try:
                for piece in pieces:
                    rest = memoryview(piece)
                    while rest:
                        readable, writable, _ = select.select([connection], [connection], [], PATIENCE)
                        if readable:
                            return status(connection), sent
                        if not writable:
                            sys.exit("the server takes nothing more and says nothing")
                        count = connection.send(rest[:1 << 20], socket.MSG_DONTWAIT)
                        rest, sent = rest[count:], sent + count
                    time.sleep(seconds_between)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return status(connection), sent

    def processor_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, name):
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    def forget_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def status(connection):
    head = b""
    try:
        while b"\r\n" not in head:
            received = connection.recv(4096)
            if not received:
                break
            head += received
    except ConnectionResetError:
        pass
    return int(head.split()[1]) if head else None


def post(path, framing, media_type=b"multipart/form-data; boundary=" + BOUNDARY):
    return b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: %s\r\n%s\r\n\r\n" % (path, media_type, framing)


def head(name):
    return b'--%s\r\ncontent-disposition: form-data; name="%s"; filename="f"\r\n\r\n' % (BOUNDARY, name)


def in_one_piece(path, body):
    yield post(path, b"content-length: %d" % len(body))
    yield body


def in_small_pieces(path, body, size):
    """Chunks of HTTP; many of them go out at once."""
    yield post(path, b"transfer-encoding: chunked")
    chunks = [b"%x\r\n%s\r\n" % (len(body[at:at + size]), body[at:at + size]) for at in range(0, len(body), size)]
    for at in range(0, len(chunks), 1000):
        yield b"".join(chunks[at:at + 1000])
    yield b"0\r\n\r\n"


def endless(path, start, megabytes):
    """A body that says how long it is, and never comes to the point."""
    yield post(path, b"content-length: %d" % (len(start) + megabytes * 1_000_000))
    yield start
    megabyte = b"x" * 1_000_000
    for _ in range(megabytes):
        yield megabyte


def report(what, server, requests):
    server.forget_peak()
    before, cpu, began = server.memory("VmRSS"), server.processor_seconds(), time.monotonic()
    answers = [server.send(pieces) for pieces in requests]
    statuses = "/".join(sorted({str(status) for status, _ in answers}))
    sent = sum(sent for _, sent in answers) / 1e6
    seconds, cpu = time.monotonic() - began, server.processor_seconds() - cpu
    print(f"{what:<44} {statuses:>6} {sent:>8.1f} {seconds:>8.1f} {cpu:>7.2f} {before:>8.0f} {server.memory('VmHWM'):>8.0f}",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--port", type=int, default=9188)
    parser.add_argument("--megabytes", type=int, default=1500, help="of a form that never comes to the point [%(default)s]")
    parser.add_argument("--model-megabytes", type=int, default=60, help="of a model that is sent at 1 MB/s [%(default)s]")
    options = parser.parse_args()
    noise = random.Random(1).randbytes(PHOTO)
    photo = head(b"image") + noise + b"\r\n--%s--\r\n" % BOUNDARY
    print(f"{'':<44} {'answer':>6} {'MB sent':>8} {'seconds':>8} {'CPU s':>7} {'MB':>8} {'peak MB':>8}")
    with Server(options.binary, options.port) as server:
        report(f"{FORMS} photo forms of 4 MB in one piece", server,
               [in_one_piece(b"/detect", photo) for _ in range(FORMS)])
        report(f"{FORMS} photo forms of 4 MB in {PHOTO_PIECE} byte pieces", server,
               [in_small_pieces(b"/detect", photo, PHOTO_PIECE) for _ in range(FORMS)])
        report("a part whose headers never end", server,
               [endless(b"/admin/datasets?gallery=g", b"--%s\r\nx: " % BOUNDARY, options.megabytes)])
        report("a form whose boundary never comes", server,
               [endless(b"/admin/datasets?gallery=g", b"", options.megabytes)])
    with Server(options.binary, options.port, "--request-timeout", "5") as server:
        form = head(b"file") + (noise * 300)[:options.model_megabytes * 1_000_000]
        fields = b"".join(b"\r\n" + head(name) + value for name, value in [(b"name", b"n"), (b"threshold", b"0.3")])
        form += fields + b"\r\n--%s--\r\n" % BOUNDARY
        pieces = [form[at:at + 100_000] for at in range(0, len(form), 100_000)]
        begin = post(b"/admin/models", b"content-length: %d" % len(form))
        answer, sent = server.send([begin, *pieces], 0.1)
        arrived = {408: "does not arrive", 422: "arrives (and is no network)"}.get(answer, "unexpected")
        print(f"a model of {options.model_megabytes} MB at 1 MB/s, 5 s for a request: {answer}, {arrived}; "
              f"{sent / 1e6:.1f} MB were sent")


if __name__ == "__main__":
    main()
