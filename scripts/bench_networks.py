"""The networks alone: faceid's engine against ONNX Runtime, on the same weights and cores."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
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


def ask(worker: subprocess.Popen, log: Path, case: Case, seconds: float) -> float:
    try:
        worker.stdin.write(json.dumps({"stage": case.stage, "batch": case.batch, "seconds": seconds}) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        raise BenchError(f"the ONNX Runtime worker ended: {' '.join(log.read_text(errors='replace').splitlines()[-5:])}")
    return json.loads(answer)["items_per_second"]


def ours(bench, cores: list[int], precision: str) -> dict:
    """What `faceid bench` reports; a call for each stage, since it takes every stage through the same batches."""
    report = {"results": []}
    for stage in dict.fromkeys(case.stage for case in CASES):
        batches = ",".join(str(case.batch) for case in CASES if case.stage == stage)
        command = [bench.binary, "bench", "--json", "--threads", len(cores), "--precision", precision, "--stages", stage]
        command += ["--batches", batches, "--size", "640x480", "--seconds", f"{bench.network_seconds:g}"]
        part = json.loads(finished(pinned(cores, command), env=bench.faceid_environment()))
        report = {**part, "results": report["results"] + part["results"]}
    return report


def found(report: dict, case: Case) -> float:
    for result in report["results"]:
        if (result["stage"], result.get("batch", 1)) == (case.stage, case.batch):
            return result["items_per_second"]
    raise BenchError(f"`faceid bench` gave no figure for {case.name}")
