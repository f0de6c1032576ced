#!/usr/bin/env python3
"""Measures whether the time in which a server refuses a key depends on how much of it is right.

    python3 scripts/measure_key_timing.py --port 8080 --key KEY --rounds 20000

KEY is one that the server knows. Requests with keys that differ from it in the last digit, in the last half, or in every digit are sent
in a random order over one connection. Printed are the medians, and the largest |t| of Welch's test between two kinds after the slowest
tenth, which the machine's noise makes, was left out. Below 4.5 nothing can be told apart (dudect, Reparaz et al. 2017).
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import socket
import statistics
import time
import uuid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True, help="a key that the server knows")
    parser.add_argument("--rounds", type=int, default=20000, help="requests of each kind")
    options = parser.parse_args()
    kinds = {"last digit": 1, "last half": 16, "every digit": 32}
    # Made beforehand, as a pause before a request shows in its time.
    plan = [(kind, request(other(options.key, digits))) for kind, digits in kinds.items() for _ in range(options.rounds)]
    random.shuffle(plan)
    times: dict[str, list[int]] = {kind: [] for kind in kinds}
    with socket.create_connection(("127.0.0.1", options.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, (kind, message) in enumerate(plan):
            took = refused(connection, message)
            if number >= 500:
                times[kind].append(took)
    kept = {kind: sorted(all_of)[: len(all_of) * 9 // 10] for kind, all_of in times.items()}
    for kind, some in kept.items():
        print(f"differs in the {kind}: median {statistics.median(some) / 1000:.2f} us, {len(some)} requests")
    largest = max(abs(welch(kept[one], kept[two])) for one, two in itertools.combinations(kept, 2))
    print(f"largest |t| {largest:.2f}")


def other(key: str, digits: int) -> str:
    """The key with other digits at its end."""
    text = uuid.UUID(key).hex
    changed = "".join(random.choice([digit for digit in "0123456789abcdef" if digit != old]) for old in text[32 - digits :])
    return str(uuid.UUID(text[: 32 - digits] + changed))


def request(key: str) -> bytes:
    return f"GET /galleries HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: {key}\r\n\r\n".encode()


def refused(connection: socket.socket, request: bytes) -> int:
    """How many nanoseconds it takes until a request is refused for its key."""
    began = time.perf_counter_ns()
    connection.sendall(request)
    answer = connection.recv(65536)
    took = time.perf_counter_ns() - began
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 401"):
        raise SystemExit(f"not refused: {head.decode(errors='replace')}")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(65536)
    return took


def welch(one: list[int], two: list[int]) -> float:
    """The t of Welch's test."""
    spread = statistics.variance(one) / len(one) + statistics.variance(two) / len(two)
    return (statistics.fmean(one) - statistics.fmean(two)) / math.sqrt(spread)


if __name__ == "__main__":
    main()
