"""The peer's half of the network measurements, run by `bench.py` with the Python of the peer's environment.

    bench_ort.py free-batch EMBEDDER COPY     writes a copy whose batch is free, and checks that it computes the same
    bench_ort.py serve THREADS FLUSH EMBEDDER COPY DETECTOR
                                              answers {"stage", "batch", "seconds"} on stdin by {"items_per_second", "median_ms"}

FLUSH is 0 or 1: whether numbers too small for a normal float count as zero. ONNX Runtime takes that setting for the main
thread from the first session of a process, so each choice needs a process of its own.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np
import onnxruntime

DETECTOR_SIZE = (640, 480)  # width, height
LEAST_RUNS = 5
WARM_UP = 0.3  # seconds


def main() -> int:
    command, *arguments = sys.argv[1:]
    if command == "free-batch":
        free_batch(*arguments)
    else:
        serve(int(arguments[0]), arguments[1] == "1", *arguments[2:])
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


def serve(threads: int, flush: bool, embedder: str, copy: str, detector: str) -> None:
    sessions = {}
    for line in sys.stdin:
        task = json.loads(line)
        stage, batch = task["stage"], task["batch"]
        width, height = DETECTOR_SIZE if stage == "detect" else (112, 112)
        path = detector if stage == "detect" else embedder if batch == 1 else copy
        if path not in sessions:
            sessions[path] = session(path, threads, flush)
        print(json.dumps(measure(sessions[path], made_input(batch, height, width), task["seconds"])), flush=True)


def session(path: str, threads: int, flush: bool) -> onnxruntime.InferenceSession:
    """As the peer makes its sessions, but for `flush`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if flush:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(path, options)


def made_input(batch: int, height: int, width: int) -> np.ndarray:
    """Noise in the range that a network gets: the time does not depend on what is on a photo."""
    pixels = np.random.default_rng(1).integers(0, 256, (batch, 3, height, width))
    return ((pixels - 127.5) / (127.5 if height == 112 else 1)).astype(np.float32)


def run(network: onnxruntime.InferenceSession, values: np.ndarray) -> list[np.ndarray]:
    return network.run(None, {network.get_inputs()[0].name: values})


def measure(network: onnxruntime.InferenceSession, values: np.ndarray, seconds: float) -> dict:
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
