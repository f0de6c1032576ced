#!/usr/bin/env python3
"""Measures faceid on an NVIDIA GPU: the networks beside PyTorch (eager, and compiled) on the same card and weights,
POST /identify over loopback, and whether recognition is what it is on a CPU. Prints tables; writes nothing.

Needs a Python with torch of the version that faceid is linked to, built for CUDA, and onnx; for HTTP also wrk.
What you set is respected, as by bench.py: FACEID_TEST_DATA (the photos), FACEID_BENCH_DIR (for wrk's script) and
FACEID_WEIGHTS_DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from bench_http import enrol, photo_sets
from bench_report import number, table
from bench_tools import BenchError, free_port, say, server, wrk

CHECKOUT = Path(__file__).resolve().parent.parent
BATCHES = (1, 8, 32, 128, 256)
PARTS = ("networks", "http", "recognition")


class FromOnnx(torch.nn.Module):
    """The embedder as PyTorch's own operations, in the order of the file."""

    def __init__(self, path: Path):
        super().__init__()
        graph = onnx.load(str(path)).graph
        self.weights = torch.nn.ParameterDict()
        self.names = {}
        for position, item in enumerate(graph.initializer):
            value = torch.tensor(numpy_helper.to_array(item))
            if value.is_floating_point():
                self.names[item.name] = f"w{position}"
                self.weights[f"w{position}"] = torch.nn.Parameter(value, requires_grad=False)
        self.first = next(value.name for value in graph.input if value.name not in self.names)
        self.last = graph.output[0].name
        self.nodes = [(node.op_type, list(node.input), node.output[0], self.attributes(node)) for node in graph.node]

    @staticmethod
    def attributes(node) -> dict:
        return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {self.first: x}
        get = lambda name: values[name] if name in values else self.weights[self.names[name]]
        for kind, inputs, output, about in self.nodes:
            if kind == "Conv":
                top, left, bottom, right = about.get("pads", (0, 0, 0, 0))
                assert (top, left) == (bottom, right)
                bias = get(inputs[2]) if len(inputs) > 2 else None
                values[output] = F.conv2d(get(inputs[0]), get(inputs[1]), bias, tuple(about.get("strides", (1, 1))), (top, left), groups=about.get("group", 1))
            elif kind == "PRelu":
                values[output] = F.prelu(get(inputs[0]), get(inputs[1]).flatten())
            elif kind == "Add":
                values[output] = get(inputs[0]) + get(inputs[1])
            elif kind in ("Reshape", "Flatten"):
                values[output] = get(inputs[0]).flatten(1)
            else:
                raise BenchError(f"this comparison knows no {kind}")
        return values[self.last]


def seconds_of(step, seconds: float) -> float:
    """The median of repeated passes, each waited for."""
    deadline, times = time.monotonic() + seconds * 1.2, []
    warm = time.monotonic() + seconds * 0.2
    while time.monotonic() < deadline or len(times) < 3:
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if time.monotonic() > warm:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def matmul_rate(kind: torch.dtype) -> float:
    """Operations a second of a large product, the ceiling that networks are compared with."""
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=kind) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, 1)


def operations(model: torch.nn.Module, x: torch.Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


def networks(options) -> None:
    embedder = options.weights / "mobilefacenet-512.onnx"
    command = [options.binary, "bench", "--json", "--device", "cuda", "--stages", "embed,detect", "--seconds", options.seconds]
    command += ["--batches", ",".join(map(str, BATCHES))]
    report = json.loads(run(options, command))
    ours = {(one["stage"], one["batch"]): one for one in report["results"]}
    say(f"faceid: {report['device']}, {report['precision']}, {report['kernels']}")
    model = FromOnnx(embedder).eval().cuda().half().to(memory_format=torch.channels_last)
    torch.set_grad_enabled(False)
    peak = matmul_rate(torch.float16)
    per_face = operations(model, torch.randn(1, 3, 112, 112, device="cuda", dtype=torch.float16))
    bytes_of = {n: torch.randint(0, 256, (n, 112, 112, 3), dtype=torch.uint8) for n in BATCHES}

    def whole(network, batch: int):
        """Bytes in, floats out: what faceid's figure holds as well."""
        pixels = bytes_of[batch].pin_memory().to("cuda", non_blocking=True).permute(0, 3, 1, 2)
        return network(((pixels.float() - 127.5) / 127.5).half()).float().cpu()

    rows, compiled = [], {}
    for batch in options.compiled:
        began = time.monotonic()
        torch.compiler.reset()
        best = torch.compile(model, dynamic=False, mode="max-autotune" if options.autotune else "reduce-overhead")
        whole(best, batch)
        compiled[batch] = batch / seconds_of(lambda: whole(best, batch), options.seconds)
        say(f"compiled for batch {batch} and measured in {time.monotonic() - began:.0f} s")
    for batch in BATCHES:
        x = bytes_of[batch].cuda().permute(0, 3, 1, 2).half()
        eager = batch / seconds_of(lambda: whole(model, batch), options.seconds)
        bare = batch / seconds_of(lambda: model(x), options.seconds)
        own = ours["embed", batch]["items_per_second"]
        share = own * per_face / peak
        rows.append([str(batch), number(own), number(eager), f"{own / eager:.2f}x", number(compiled[batch]) if batch in compiled else "-", number(bare), f"{share:.1%}"])
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}; fp16 product of 8192x8192: {peak / 1e12:.0f} TFLOP/s; a chip: {per_face / 1e9:.3f} GFLOP\n")
    print(table(["batch", "faceid, chips/s", "PyTorch eager", "ratio", "torch.compile", "eager, network only", "faceid's share of the product's rate"], rows))
    print()
    print(table(["batch", "detector 640x480, images/s", "ms a pass"], [[str(n), number(ours["detect", n]["items_per_second"]), f"{ours['detect', n]['median_ms']:.2f}"] for n in BATCHES]))


def run(options, command: list) -> str:
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=options.environment, cwd=options.data)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(map(str, command))[:150]} failed: {done.stderr[-1500:]}")
    return done.stdout


def stage_times(up) -> dict[str, float]:
    """Seconds, passes and batches of each stage so far, by the name of the metric."""
    text = urllib.request.urlopen(up.url("/metrics")).read().decode()
    found = {}
    for line in text.splitlines():
        if line.startswith(("faceid_stage_seconds_sum", "faceid_stage_seconds_count", "faceid_batch_size_sum", "faceid_batch_size_count")):
            name, value = line.rsplit(" ", 1)
            found[name] = float(value)
    return found


def http(options) -> None:
    sets = photo_sets(options.data)
    rows = []
    with tempfile.TemporaryDirectory(prefix="faceid-bench-") as folder:
        Path(folder).chmod(0o755)
        port = free_port()
        command = [options.binary, "serve", "--embedder", "fast", "--device", options.device, "--bind", f"127.0.0.1:{port}", "--data-dir", f"{folder}/data", "--log", "warn"]
        command += ["--threads", options.threads] if options.threads else []
        log = Path(folder) / "faceid.log"
        with server([str(word) for word in command], port, "faceid", "/readyz", log, env=options.environment) as up:
            enrol(up, options.data / "lfw100", 1)
            for name, chosen in sets.items():
                query = f"&max_faces={chosen.max_faces}" if chosen.max_faces else ""
                for connections in options.connections:
                    script = options.peer / "post.lua"
                    wrk(script, chosen.photos, options.data, up, connections, 1, [], query)
                    before = stage_times(up)
                    load = wrk(script, chosen.photos, options.data, up, connections, options.seconds * 2, [], query)
                    rows.append([name, str(connections), number(load.per_second), f"{load.p50_ms:.1f}", str(load.failed)])
                    after = stage_times(up)
                    grown = {key: after[key] - before.get(key, 0) for key in after}
                    say(f"{name}, {connections}: " + ", ".join(f"{key[7:]} {value:.3f}" for key, value in sorted(grown.items())))
    print()
    print(table(["photos", "connections", "requests/s", "p50 ms", "failed"], rows))


def recognition(options) -> None:
    for name in ("lfw100", "orl"):
        command = [options.binary, "evaluate", options.data / name, "--device", options.device, "--json", "--draws", "100"]
        figures = json.loads(run(options, command))
        print(f"\n{name}: {json.dumps({'verification': figures['verification'], 'identification': figures['identification']})[:1500]}")
    truth = json.loads((options.data / "scenes" / "truth.json").read_text())
    with tempfile.TemporaryDirectory(prefix="faceid-bench-") as folder:
        Path(folder).chmod(0o755)
        port = free_port()
        command = [options.binary, "serve", "--embedder", "fast", "--device", options.device, "--bind", f"127.0.0.1:{port}", "--data-dir", f"{folder}/data", "--log", "warn"]
        with server([str(word) for word in command], port, "faceid", "/readyz", Path(folder) / "log", env=options.environment) as up:
            found = {path.name: up.ask("POST", "/detect", path)[1]["faces"] for path in sorted((options.data / "scenes").glob("*.jpg"))}
    noses = {name: [tuple(nose) for nose in places] for name, places in truth["noses"].items()}
    right = sum(len(found_noses(faces, noses.get(name, []))) for name, faces in found.items())
    print(f"scenes: {right} of {sum(map(len, noses.values()))} noses in boxes, {sum(map(len, found.values())) - right} boxes without one")


def found_noses(faces: list[dict], noses: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those that have a box of their own."""
    taken = set()
    for box in (face["box"] for face in faces):
        inside = [n for n in noses if n not in taken and 0 <= n[0] - box["x"] <= box["width"] and 0 <= n[1] - box["y"] <= box["height"]]
        taken.update(inside[:1])
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=CHECKOUT / "target" / "release" / "faceid")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to measure (default: {','.join(PARTS)})")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=2, help="for each figure (default: 2)")
    parser.add_argument("--threads", type=int, help="faceid's threads for pixels (default: its own)")
    parser.add_argument("--connections", default="8,64,256", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--compiled", default="1,32,256", type=lambda text: [int(n) for n in text.split(",") if n], help="batches to compile for; it takes long")
    parser.add_argument("--autotune", action="store_true", help="compile with max-autotune instead of reduce-overhead")
    options = parser.parse_args()
    options.peer = Path(os.environ.get("FACEID_BENCH_DIR") or CHECKOUT.parent / "shared" / "bench").absolute()
    options.data = Path(os.environ.get("FACEID_TEST_DATA") or CHECKOUT.parent / "shared" / "data").absolute()
    options.weights = Path(os.environ.get("FACEID_WEIGHTS_DIR") or CHECKOUT / ".deps" / "weights").absolute()
    libraries = str(Path(torch.__file__).parent / "lib")
    options.environment = {**os.environ, "FACEID_WEIGHTS_DIR": str(options.weights), "FACEID_CUDA_LIBRARIES": libraries, "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    for name in options.only.split(","):
        {"networks": networks, "http": http, "recognition": recognition}[name](options)


if __name__ == "__main__":
    main()
