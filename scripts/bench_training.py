#!/usr/bin/env python3
"""Seconds of a training step: ours beside PyTorch eager, on the same network, batch and threads.

Needs PyTorch 2.11 and onnx in the Python that runs it, and the training benchmark (cargo bench --no-run --bench
training prints where it is). The two take turns, so that what else the machine does meets both.

Example: python scripts/bench_training.py BENCHMARK --weights .deps/weights/mobilefacenet-512.onnx
"""
import argparse
import re
import statistics
import subprocess
import time

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

BATCH, PHOTOS, REPLAY, EPOCH = 32, 4, 8, 300


class Embedder(torch.nn.Module):
    """The nodes of the ONNX file, in order."""

    def __init__(self, path):
        super().__init__()
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        self.input, self.output = graph.input[0].name, graph.output[0].name
        self.names = {}
        for weight in graph.initializer:
            tensor = torch.from_numpy(numpy_helper.to_array(weight).copy())
            if not tensor.is_floating_point():
                self.names[weight.name] = tensor
                continue
            # As faceid does: products of such weights are subnormal numbers, which are slow.
            tensor[tensor.abs() < 1e-18] = 0
            key = f"w{len(self.names)}"
            setattr(self, key, torch.nn.Parameter(tensor))
            self.names[weight.name] = key

    def forward(self, x):
        values = {self.input: x}

        def value(name):
            if name in values:
                return values[name]
            known = self.names[name]
            return getattr(self, known) if isinstance(known, str) else known

        for node in self.nodes:
            inputs = [value(name) for name in node.input]
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Conv":
                out = F.conv2d(*inputs, stride=attributes["strides"], padding=attributes["pads"][:2],
                               groups=attributes.get("group", 1))
            elif node.op_type == "PRelu":
                out = F.prelu(inputs[0], inputs[1].flatten())
            elif node.op_type == "Add":
                out = inputs[0] + inputs[1]
            elif node.op_type == "Reshape":
                out = inputs[0].flatten(1)
            else:
                raise SystemExit(f"the script lacks {node.op_type}")
            values[node.output[0]] = out
        return F.normalize(values[self.output].flatten(1))


def batch_hard(rows, subjects, margin=0.3):
    distances = (2 - 2 * rows @ rows.T).clamp_min(0)
    same = subjects[:, None] == subjects[None, :]
    itself = torch.eye(len(subjects), dtype=torch.bool)
    farthest = distances.masked_fill(~same | itself, -1).amax(1)
    nearest = distances.masked_fill(same, 1e9).amin(1)
    return (farthest - nearest + margin).relu().mean()


def torch_seconds(path, threads, steps, channels_last):
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    network, before = Embedder(path), Embedder(path)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-4, weight_decay=0)
    averages = [parameter.detach().clone() for parameter in network.parameters()]
    subjects = torch.arange(BATCH) // PHOTOS
    images = torch.rand(BATCH + REPLAY, 3, 112, 112) * 2 - 1
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    times = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        rows = network(images)
        with torch.no_grad():
            old = before(images[BATCH:])
        loss = batch_hard(rows[:BATCH], subjects) + 2 * (rows[BATCH:] - old).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5)
        optimiser.step()
        with torch.no_grad():
            for average, parameter in zip(averages, network.parameters()):
                average.mul_(0.9).add_(parameter, alpha=0.1)
        times.append(time.perf_counter() - began)
    return statistics.mean(times[2:])


def our_seconds(binary, threads, steps):
    command = [binary, "speed", "--network", "base", "--precision", "fp32", "--batch", str(BATCH),
               "--threads", str(threads), "--steps", str(steps)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name: float(ms) for name, ms in re.findall(r"^(as they are|varied) +[\d.]+ +([\d.]+)", text, re.M)}
    return found["as they are"] / 1e3, found["varied"] / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds = {"PyTorch eager": [], "PyTorch eager, channels_last": [], "faceid": [], "faceid, chips varied": []}
    for _ in range(args.rounds):
        rounds["PyTorch eager"].append(torch_seconds(args.weights, args.threads, args.steps, False))
        rounds["PyTorch eager, channels_last"].append(torch_seconds(args.weights, args.threads, args.steps, True))
        plain, varied = our_seconds(args.benchmark, args.threads, args.steps)
        rounds["faceid"].append(plain)
        rounds["faceid, chips varied"].append(varied)
    base = statistics.median(rounds["PyTorch eager"])
    print(f"torch {torch.__version__}, {args.threads} threads, {BATCH} chips and {REPLAY} replayed a step")
    print(f"{'what':<30} {'ms a step':>10} {'least':>8} {'most':>8} {'s an epoch of ' + str(EPOCH):>20} {'ratio':>6}")
    for name, seconds in rounds.items():
        middle = statistics.median(seconds)
        print(f"{name:<30} {middle * 1e3:>10.0f} {min(seconds) * 1e3:>8.0f} {max(seconds) * 1e3:>8.0f} "
              f"{middle * EPOCH / BATCH:>20.1f} {middle / base:>6.2f}")


if __name__ == "__main__":
    main()
