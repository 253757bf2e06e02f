#!/usr/bin/env python3
"""What localising one volume costs the reference, and us: seconds on two cores.

    python3 time_reference.py --structures 25

The reference runs its whole network, decoder and all, once for each of 10 starting patches and once around each of the six
extreme points of each structure, in batches that a GPU makes cheap and a processor does not. A few patches are timed in
PyTorch with random weights, which take as long as trained ones, and multiplied. What the reference does besides (resampling,
correlating: 27 GFLOP a point beside the network's 423) is not counted, to its advantage.
"""
import argparse
import os
import time

import torch

import published


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=25, help="structures of our bank")
    parser.add_argument("--starts", type=int, default=10, help="patches the reference starts from")
    parser.add_argument("--patches", type=int, default=3, help="patches to time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ours", type=float, help="seconds our localiser took, for the ratio")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    weights = published.random(1)
    patch = torch.rand(1, 1, *[published.PATCH] * 3)
    seconds = []
    with torch.no_grad():
        for _ in range(arguments.patches + 1):
            started = time.perf_counter()
            published.forward(weights, patch)
            seconds.append(time.perf_counter() - started)
    seconds = sorted(seconds[1:])  # the first warms up
    count = arguments.starts + 6 * arguments.structures
    middle = seconds[len(seconds) // 2]
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {arguments.threads} threads, load {load:.1f} on {os.cpu_count()} cores")
    print("one patch:", ", ".join(f"{s:.2f}" for s in seconds), "s")
    print(f"{arguments.structures} structures: {count} patches, {count * middle:.0f} s (fastest: {count * seconds[0]:.0f} s)")
    if arguments.ours:
        print(f"ours: {arguments.ours:.1f} s, {count * middle / arguments.ours:.0f} times (fastest: {count * seconds[0] / arguments.ours:.0f})")


if __name__ == "__main__":
    main()
