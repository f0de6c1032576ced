"""The peer's half of the network measurements, run by `bench.py` with the Python of the peer's environment.

    bench_ort.py free-batch EMBEDDER COPY     writes a copy whose batch is free, and checks that it computes the same
    bench_ort.py plain EMBEDDER COPY          writes a copy whose batch is free and whose weights are plain floats, likewise
    bench_ort.py serve THREADS FLUSH EMBEDDER COPY DETECTOR
                                              answers {"stage", "batch", "seconds"} on stdin by {"items_per_second", "median_ms"}

FLUSH is 0 or 1: whether numbers too small for a normal float count as zero. ONNX Runtime takes that setting for the main
thread from the first session of a process, so each choice needs a process of its own. With `openvino` in its place OpenVINO
runs the copy, in the precision that it chooses.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from types import SimpleNamespace

import numpy as np
import onnxruntime

DETECTOR_SIZE = (640, 480)  # width, height
LEAST_RUNS = 5
WARM_UP = 0.3  # seconds


def main() -> int:
    command, *arguments = sys.argv[1:]
    if command == "free-batch":
        free_batch(*arguments)
    elif command == "plain":
        plain(*arguments)
    else:
        serve(int(arguments[0]), *arguments[1:])
    return 0


def free_batch(published: str, copy: str) -> None:
    """The published embedder takes one chip at a time and says so three times: input, output, last reshape."""
    import onnx  # only here: not a part of what is measured

    model = onnx.load(published)
    graph = model.graph
    for value in (graph.input[0], graph.output[0]):
        batch = value.type.tensor_type.shape.dim[0]
        batch.Clear()
        batch.dim_param = "batch"
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for constant in graph.initializer:
        if constant.name in shapes:
            shape = onnx.numpy_helper.to_array(constant).copy()
            shape[0] = 0  # as many as there are
            constant.CopyFrom(onnx.numpy_helper.from_array(shape, constant.name))
    onnx.checker.check_model(model)
    onnx.save(model, copy)

    chips = made_input(8, 112, 112)
    one, many = session(published, 1, False), session(copy, 1, False)
    expected = np.vstack([run(one, chips[i : i + 1])[0] for i in range(len(chips))])
    alone, together = run(many, chips[:1])[0], run(many, chips)[0]
    largest = max(np.abs(alone - expected[:1]).max(), np.abs(together - expected).max())
    if not np.array_equal(alone, expected[:1]) or not largest < 1e-5:
        sys.exit(f"the copy with a free batch computes something else: largest difference {largest:.2g}")


def plain(published: str, copy: str) -> None:
    """SFace has a batch of one and its weights in blocks of 8-bit numbers, which OpenVINO cannot read."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(published)
    graph = model.graph
    graph_inputs = {name for node in graph.node for name in node.input}
    kept = [value for value in graph.input if value.name in graph_inputs]
    del graph.input[:]
    graph.input.extend(kept)
    as_published = model.SerializeToString()
    known = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            known[node.output[0]] = unpacked(*(known[name] for name in node.input), **{a.name: a.i for a in node.attribute})
        elif node.op_type == "Reshape" and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]].reshape(known[node.input[1]])
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(known[name], name) for name in known if name in read)
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(model)
    onnx.save(model, copy)
    chips = made_input(3, 112, 112, raw=True)
    one, many = session(as_published, 1, False), session(copy, 1, False)
    expected = np.vstack([run(one, chips[i : i + 1])[0] for i in range(len(chips))])
    largest = np.abs(run(many, chips)[0] - expected).max()
    if not largest < 1e-4:
        sys.exit(f"the copy with plain weights computes something else: largest difference {largest:.2g}")


def unpacked(values: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int = 1, block_size: int = 0) -> np.ndarray:
    places = np.arange(values.shape[axis]) // block_size
    scale, zero = np.take(scale, places, axis), np.take(zero, places, axis)
    return ((values.astype(np.float32) - zero) * scale).astype(np.float32)


def serve(threads: int, how: str, embedder: str, copy: str, detector: str) -> None:
    sessions = {}
    for line in sys.stdin:
        task = json.loads(line)
        stage, batch = task["stage"], task["batch"]
        width, height = DETECTOR_SIZE if stage == "detect" else (112, 112)
        path = detector if stage == "detect" else embedder if batch == 1 else copy
        key = (path, batch if how == "openvino" else 0)
        if key not in sessions:
            sessions[key] = OpenVino(path, threads, batch) if how == "openvino" else session(path, threads, how == "1")
        values = made_input(batch, height, width, task.get("raw", False))
        print(json.dumps(measure(sessions[key], values, task["seconds"])), flush=True)


class OpenVino:
    """OpenVINO with the face of a session of ONNX Runtime, compiled for one size of batch."""

    def __init__(self, path: str, threads: int, batch: int) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        model.reshape([batch, 3, 112, 112])
        hints = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        self.request = core.compile_model(model, "CPU", hints).create_infer_request()

    def get_inputs(self) -> list:
        return [SimpleNamespace(name=self.request.model_inputs[0].any_name)]

    def run(self, _outputs: None, values: dict) -> list[np.ndarray]:
        return list(self.request.infer(values).values())


def session(path: str | bytes, threads: int, flush: bool) -> onnxruntime.InferenceSession:
    """As the peer makes its sessions, but for `flush`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if flush:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(path, options)


def made_input(batch: int, height: int, width: int, raw: bool = False) -> np.ndarray:
    """Noise in the range that a network gets: the time does not depend on what is on a photo."""
    pixels = np.random.default_rng(1).integers(0, 256, (batch, 3, height, width))
    return (pixels if raw else (pixels - 127.5) / (127.5 if height == 112 else 1)).astype(np.float32)


def run(network: onnxruntime.InferenceSession | OpenVino, values: np.ndarray) -> list[np.ndarray]:
    return network.run(None, {network.get_inputs()[0].name: values})


def measure(network: onnxruntime.InferenceSession | OpenVino, values: np.ndarray, seconds: float) -> dict:
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP:
        run(network, values)
    times = []
    start = time.perf_counter()
    while len(times) < LEAST_RUNS or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run(network, values)
        times.append(time.perf_counter() - before)
    return {"items_per_second": len(values) * len(times) / (time.perf_counter() - start), "median_ms": statistics.median(times) * 1e3}


if __name__ == "__main__":
    sys.exit(main())
