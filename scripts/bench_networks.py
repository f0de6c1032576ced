"""The networks alone: faceid's engine against ONNX Runtime, on the same weights and cores. `bench.py` runs it.

By itself it measures SFace, against OpenVINO, too, and prints a table; the figures are chips a second:

    pip install onnx onnxruntime openvino numpy
    python3 scripts/bench_networks.py --network sface [--binary FACEID] [--threads 1] [--rounds 5] [--seconds 2]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from bench_report import Bar, figure, paragraph, ratio, table, verdict
from bench_tools import BenchError, environment, finished, pinned, process, say

WORKER = Path(__file__).with_name("bench_ort.py")


@dataclass(frozen=True)
class Case:
    name: str
    stage: str
    batch: int
    bar: Bar


CASES = (
    Case("embedder, batch 1, chips/s", "embed", 1, Bar(1.3)),
    Case("embedder, batch 8, chips/s", "embed", 8, Bar(2.0)),
    Case("embedder, batch 32, chips/s", "embed", 32, Bar(2.5)),
    Case("detector, 640x480, images/s", "detect", 1, Bar(1.3)),
)
# How ONNX Runtime treats numbers too small for a normal float, which slow some processors down. The faster one counts.
VARIANTS = {"published": "0", "flushed": "1"}
HEADER = ["what", "faceid", "faceid, fp32, one run", "ONNX Runtime", "ONNX Runtime, denormals as zero", "ratio to the faster", "bar", "met"]


def measure(bench, threads: list[int], about: str) -> str:
    copy = bench.temporary / "free-batch.onnx"
    finished([str(bench.python), str(WORKER), "free-batch", str(bench.embedder), str(copy)], env=environment())
    sections = [
        "### Networks",
        about,
        paragraph(
            "The embedder's file declares a batch of one. ONNX Runtime takes it as it is for batch 1, and for more a copy whose batch "
            "is free; the copy was checked to compute the same."
        ),
    ]
    for count in threads:
        sections.append(with_threads(bench, count, copy))
    return "\n\n".join(sections)


def with_threads(bench, threads: int, copy: Path) -> str:
    cores = sorted(os.sched_getaffinity(0))[:threads]
    figures = defaultdict(list)  # by side and case
    with contextlib.ExitStack() as stack:
        peers = {}
        for name, flush in VARIANTS.items():
            command = pinned(cores, [bench.python, WORKER, "serve", threads, flush, bench.embedder, copy, bench.detector])
            log = bench.temporary / f"ort-{threads}-{name}.log"
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment()}
            peers[name] = stack.enter_context(process(command, log, **pipes)), log
        for turn in range(bench.rounds):
            say(f"networks, {threads} thread{'s' * (threads > 1)}: round {turn + 1} of {bench.rounds}")
            for name, (worker, log) in peers.items():
                for case in CASES:
                    figures[name, case].append(ask(worker, log, case, bench.network_seconds))
            auto = ours(bench, cores, "auto")
            for case in CASES:
                figures["auto", case].append(found(auto, case))
        plain = ours(bench, cores, "fp32")
    rows = []
    for case in CASES:
        faster = max((figures[name, case] for name in VARIANTS), key=statistics.median)
        reached = ratio(figures["auto", case], faster)
        sides = [figures["auto", case], [found(plain, case)], *(figures[name, case] for name in VARIANTS)]
        rows.append([case.name, *map(figure, sides), f"{reached:.2f}x", str(case.bar), verdict(case.bar.met(reached))])
    how = f"faceid on {auto['device']} in {auto['precision']}, kernels {auto['kernels']}"
    return f"{threads} thread{'s' * (threads > 1)}; {how}:\n\n{table(HEADER, rows)}"


def ask(worker: subprocess.Popen, log: Path, case: Case, seconds: float, raw: bool = False) -> float:
    try:
        worker.stdin.write(json.dumps({"stage": case.stage, "batch": case.batch, "seconds": seconds, "raw": raw}) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        raise BenchError(f"the worker ended: {' '.join(log.read_text(errors='replace').splitlines()[-5:])}")
    return json.loads(answer)["items_per_second"]


def ours(bench, cores: list[int], precision: str, more: list = (), cases: tuple = CASES) -> dict:
    """What `faceid bench` reports; a call for each stage, since it takes every stage through the same batches."""
    report = {"results": []}
    for stage in dict.fromkeys(case.stage for case in cases):
        batches = ",".join(str(case.batch) for case in cases if case.stage == stage)
        command = [bench.binary, "bench", "--json", "--threads", len(cores), "--precision", precision, "--stages", stage]
        command += ["--batches", batches, "--size", "640x480", "--seconds", f"{bench.network_seconds:g}", *more]
        part = json.loads(finished(pinned(cores, command), env=bench.faceid_environment()))
        report = {**part, "results": report["results"] + part["results"]}
    return report


@dataclass(frozen=True)
class Alone:
    """What `ours` needs to know when there is no `bench.py`."""

    binary: Path
    embedder: Path
    network_seconds: float

    def faceid_environment(self) -> dict[str, str]:
        return environment(FACEID_WEIGHTS_DIR=str(self.embedder.parent))


def main() -> int:
    checkout = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["sface"], required=True)
    parser.add_argument("--binary", type=Path, default=checkout / "target" / "release" / "faceid")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    embedder = checkout / ".deps" / "weights" / "sface-128.onnx"
    try:
        with tempfile.TemporaryDirectory(prefix="faceid-bench-") as temporary:
            print(sface(Alone(options.binary.absolute(), embedder, options.seconds), options, Path(temporary)))
    except BenchError as error:
        say(f"error: {error}")
        return 1
    return 0


def sface(bench: Alone, options: argparse.Namespace, temporary: Path) -> str:
    """Rounds of every engine in turn, on the same cores."""
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    copy = temporary / "plain.onnx"
    finished([sys.executable, str(WORKER), "plain", str(bench.embedder), str(copy)], env=environment())
    cases = [case for case in CASES if case.stage == "embed"]
    engines = {"ONNX Runtime": "0", "ONNX Runtime, denormals as zero": "1", "OpenVINO": "openvino"}
    figures = defaultdict(list)
    with contextlib.ExitStack() as stack:
        peers = {}
        for name, how in engines.items():
            command = pinned(cores, [sys.executable, WORKER, "serve", options.threads, how, copy, copy, "-"])
            log = temporary / f"{how}.log"
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment()}
            peers[name] = stack.enter_context(process(command, log, **pipes)), log
        for turn in range(options.rounds):
            say(f"round {turn + 1} of {options.rounds}")
            for case in cases:
                for name, (worker, log) in peers.items():
                    figures[name, case].append(ask(worker, log, case, bench.network_seconds, raw=True))
            report = ours(bench, cores, "auto", ["--embedder", bench.embedder], cases)
            for case in cases:
                figures["faceid", case].append(found(report, case))
    rows = [[case.name, *(figure(figures[name, case]) for name in ("faceid", *engines))] for case in cases]
    how = f"faceid on {report['device']} in {report['precision']}, kernels {report['kernels']}"
    return f"{options.threads} thread{'s' * (options.threads > 1)}; {how}:\n\n{table(['what', 'faceid', *engines], rows)}"


def found(report: dict, case: Case) -> float:
    for result in report["results"]:
        if (result["stage"], result.get("batch", 1)) == (case.stage, case.batch):
            return result["items_per_second"]
    raise BenchError(f"`faceid bench` gave no figure for {case.name}")


if __name__ == "__main__":
    sys.exit(main())
