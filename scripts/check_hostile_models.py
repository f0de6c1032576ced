#!/usr/bin/env python3
"""What a server does with model files that ask for more than anybody has.

    python3 scripts/check_hostile_models.py BINARY [CASE...]

It starts BINARY (a built `faceid`) with a data folder of its own for each case, posts one file to /admin/models, and prints
the status and code of the answer, the seconds until then, the largest resident memory of the server, and of it and its
children together, the CPU seconds that both use in the ten seconds after the answer, and the seconds that SIGTERM takes. A
server that does not end within 30 s is killed. Needs Python and Linux alone; the ONNX files are written here, by hand.

Cases: weights (100,000 numbers), identities (100,000 nodes), slow_load and slow_run (products of large matrices, when the
file is loaded or when the network runs), memory (three values of 1 GiB at a time), usable (a small network that is taken in).
"""

import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

MANY = 100_000
LONGEST_ANSWER = 100
LONGEST_END = 30
TICKS = os.sysconf("SC_CLK_TCK")


# The protobuf messages of an ONNX file, as far as needed.


def varint(number):
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def number(tag, value):
    return varint(tag << 3) + varint(value)


def field(tag, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(tag << 3 | 2) + varint(len(content)) + content


def node(operator, inputs, outputs, **attributes):
    parts = [field(1, name) for name in inputs] + [field(2, name) for name in outputs] + [field(4, operator)]
    parts += [field(5, field(1, name) + number(3, value) + number(20, 2)) for name, value in attributes.items()]
    return field(1, b"".join(parts))


def weight(name, data_type, dims, raw):
    dims = b"".join(number(1, dim) for dim in dims)
    return field(5, dims + number(2, data_type) + field(8, name) + field(9, raw))


def ints(name, *values):
    return weight(name, 7, [len(values)], struct.pack(f"<{len(values)}q", *values))


def value(tag, name, dims):
    shape = b"".join(field(1, number(1, dim)) for dim in dims)
    return field(tag, field(1, name) + field(2, field(1, number(1, 1) + field(2, shape))))


def model(*parts):
    """From `x` to `y`, which is the mean of the colours if no part says otherwise."""
    declared = [value(11, "x", [1, 3, 112, 112]), value(12, "y", [1, 3])]
    end = [node("GlobalAveragePool", ["end"], ["p"]), node("Flatten", ["p"], ["y"])]
    return number(1, 8) + field(7, b"".join([*parts, *end, *declared])) + field(8, number(2, 17))


def product_chain(first, side=4096, count=400):
    """Products of matrices, each of a hundred thousand million operations; then back to the image."""
    nodes = [node("MatMul", [f"m{n}" if n else first, first], [f"m{n + 1}"]) for n in range(count)]
    nodes += [node("ReduceMean", [f"m{count}"], ["mean"]), node("Reshape", ["mean", "one"], ["scalar"])]
    return [ints("one", 1), ints("side", side, side), *nodes, node("Add", ["x", "scalar"], ["end"])]


def cases():
    small = node("Relu", ["x"], ["end"])
    numbers = [weight(f"w{n}", 1, [], struct.pack("<f", n)) for n in range(MANY)]
    copies = [node("Identity", [f"x{n}" if n else "x"], [f"x{n + 1}"]) for n in range(MANY)]
    mean = [node("ReduceMean", ["x"], ["m"]), node("Reshape", ["m", "one"], ["s"])]
    held = [ints("many", 1 << 28), *(node("Add", ["wide", f"c{n}"], [f"v{n}"]) for n in range(3))]
    held += [weight(f"c{n}", 1, [], struct.pack("<f", n)) for n in range(3)]
    held += [node("Sum", ["v0", "v1", "v2"], ["sum"]), node("ReduceMean", ["sum"], ["t"])]
    return {
        "weights": model(small, *numbers),
        "identities": model(*copies, node("Relu", [f"x{MANY}"], ["end"])),
        "slow_load": model(*(chain := product_chain("big"))[:2], node("ConstantOfShape", ["side"], ["big"]), *chain[2:]),
        "slow_run": model(*(chain := product_chain("big"))[:2], *mean, node("Expand", ["s", "side"], ["big"]), *chain[2:]),
        "memory": model(ints("one", 1), *mean, node("Expand", ["s", "many"], ["wide"]), *held,
                        node("Reshape", ["t", "one"], ["u"]), node("Add", ["x", "u"], ["end"])),
        "usable": model(small),
    }


# What the server takes.


def processes():
    """Parent, CPU ticks and resident bytes of every process."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            status = (folder / "status").read_text()
        except OSError:
            continue
        resident = next((line for line in status.splitlines() if line.startswith("VmRSS")), "VmRSS 0 kB")
        found[int(folder.name)] = (int(stat[1]), int(stat[11]) + int(stat[12]), int(resident.split()[-2]) * 1024)
    return found


class Watch(threading.Thread):
    """Follows a process and the children that are the same program."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.peak_together, self.ticks, self.stop = pid, 0, 0, {}, False
        self.start()

    def run(self):
        while not self.stop:
            self.look()
            time.sleep(0.1)

    def look(self):
        found = processes()
        ours = [pid for pid, (parent, _, _) in found.items() if pid == self.pid or parent == self.pid and self.is_same(pid)]
        for pid in ours:
            self.ticks[pid] = max(self.ticks.get(pid, 0), found[pid][1])
        if self.pid in found:
            self.peak = max(self.peak, found[self.pid][2])
            self.peak_together = max(self.peak_together, sum(found[pid][2] for pid in ours))

    def is_same(self, pid):
        try:
            return os.readlink(f"/proc/{pid}/exe") == os.readlink(f"/proc/{self.pid}/exe")
        except OSError:
            return False

    def cpu(self):
        self.look()
        return sum(self.ticks.values()) / TICKS


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(url, data=None, kind=None, patience=10):
    request = urllib.request.Request(url, data=data, headers={"content-type": kind} if kind else {})
    try:
        with urllib.request.urlopen(request, timeout=patience) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError as error:
        return None, str(error).encode()


def until_ready(server, url):
    while server.poll() is None:
        if ask(f"{url}/readyz")[0] == 200:
            return
        time.sleep(0.2)
    sys.exit(f"the server ended with {server.returncode}")


def run_case(binary, name, content):
    with tempfile.TemporaryDirectory(prefix="faceid-hostile-") as folder:
        os.chmod(folder, 0o755)  # the private PostgreSQL is another user's if this is root
        url = f"http://127.0.0.1:{(port := free_port())}"
        arguments = [binary, "serve", "--bind", f"127.0.0.1:{port}", "--data-dir", folder, "--log", "error"]
        server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        try:
            until_ready(server, url)
            report(name, content, server, url)
        finally:
            server.kill()
            server.wait()
            time.sleep(1)  # PostgreSQL sees that its server is gone


def report(name, content, server, url):
    watch = Watch(server.pid)
    idle, began = watch.cpu(), time.monotonic()
    target = f"{url}/admin/models?name={name}&threshold=0.5"
    status, body = ask(target, content, "application/octet-stream", LONGEST_ANSWER)
    seconds = time.monotonic() - began
    answered = watch.cpu()
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {"code": body.decode(errors="replace")[:60]}
    time.sleep(10)
    after = watch.cpu() - answered
    watch.stop = True
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    try:
        end = f"{server.wait(LONGEST_END)} after {time.monotonic() - began:.1f} s"
    except subprocess.TimeoutExpired:
        end = f"killed after {LONGEST_END} s"
    gib = 1 << 30
    print(
        f"{name}: {len(content) / 1e6:.1f} MB, {status} {answer.get('code', '')} after {seconds:.1f} s, "
        f"CPU {answered - idle:.1f} s and {after:.1f} s after the answer, server {watch.peak / gib:.2f} GiB, "
        f"together {watch.peak_together / gib:.2f} GiB; SIGTERM: {end}\n    {str(answer.get('detail', ''))[:160]}",
        flush=True,
    )


def main():
    files = cases()
    chosen = sys.argv[2:] or list(files)
    for name in chosen:
        run_case(sys.argv[1], name, files[name])


if __name__ == "__main__":
    main()
