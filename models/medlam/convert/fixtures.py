#!/usr/bin/env python3
"""Makes the small patch model of the tests and what PyTorch says of their volume: tests/data/patch.

    python3 fixtures.py ../../../tests/data/patch

The weights are random but for the last layers, which are fitted to say where in the volume of the tests a patch lies: so the
whole way can be tested, and a wrong sign shows. Body coordinates and features are worked out here a second time, in the
axes of the reference, from the network as published.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch

import convert
import published
from published import PATCH

BASE = 1
SEED = 5
MM = 3.0
SIZE = (84, 68, 76)  # z, y, x
ORIGIN = (-118.5, -97.0, -431.0)  # x, y, z of the first voxel's centre, LPS
STRIDE = 24
RIDGE = 3.0
RANGE = np.array([1500.0, 600.0, 600.0])  # z, y, x


def volume():
    """HU at [z, y, x], growing to S, P, L; `hu` in tests/it/patches.rs is the same."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in SIZE), indexing="ij")
    inside = ((y - 33.5) / 29.0) ** 2 + ((x - 37.5) / 34.0) ** 2 < 1.0
    wave = 70 * np.sin(0.031 * z + 0.11 * x) + 60 * np.sin(0.083 * y - 0.05 * z + 1.0) + 40 * np.sin(0.23 * x + 0.19 * z)
    wave += 30 * np.sin(0.31 * y + 0.27 * z + 0.2 * x) + 2.0 * (z - 42) + 1.5 * (y - 34) - 1.0 * (x - 38)
    return np.where(inside, np.floor(40.0 + wave), -1000.0)


def reference(hu):
    """As the network takes it: rows to Anterior, HU to 0 to 1, air around."""
    value = np.interp(hu, [-1000.0, -200.0, 200.0, 1500.0], [0.0, 0.2, 0.8, 1.0]).astype(np.float32)
    return np.pad(value[:, ::-1, :], PATCH)


def patches(padded, starts):
    """Patches from where they start, in voxels of the unpadded volume of the reference."""
    cut = [padded[tuple(slice(s + PATCH, s + 2 * PATCH) for s in start)] for start in starts]
    return torch.from_numpy(np.stack(cut)[:, None])


def millimetres(starts):
    """Body millimetres z, y, x (S, A, L) of the middles of patches: here, where they are in the patient."""
    middle = (np.asarray(starts) + (PATCH - 1) / 2) * MM
    first = np.array([ORIGIN[2], -(ORIGIN[1] + MM * (SIZE[1] - 1)), ORIGIN[0]])
    return first + middle


def fit(weights, padded):
    """Last layers that answer with the position, as far as they can."""
    generator = np.random.default_rng(SEED)
    lattice = tile_starts()
    low, high = np.min(lattice, 0), np.max(lattice, 0)
    starts = lattice + [tuple(generator.integers(low, high + 1)) for _ in range(400)]
    with torch.no_grad():
        batches = [patches(padded, starts[n : n + 20]) for n in range(0, len(starts), 20)]
        x = torch.cat([published.encode(weights, batch)[-1].flatten(1) for batch in batches]).double().numpy()
    y = millimetres(starts) / RANGE
    mean_x, mean_y = x[:-100].mean(0), y[:-100].mean(0)
    a = x[:-100] - mean_x
    solution = a.T @ np.linalg.solve(a @ a.T + RIDGE * np.eye(len(a)), y[:-100] - mean_y)
    error = ((x[-100:] - mean_x) @ solution - (y[-100:] - mean_y)) * RANGE
    here = (x[: len(lattice)] - mean_x) @ solution - (y[: len(lattice)] - mean_y)
    print("fitted position, error at the daemon's patches, mm:", np.abs(here * RANGE).max(0).round(2))
    print("fitted position, error at places left out, mm (z, y, x):", np.abs(error).mean(0).round(2))
    w1, w2 = torch.zeros(8 * BASE, x.shape[1]), torch.zeros(4 * BASE, 8 * BASE)
    w1[:3], w2[:3, :3] = torch.from_numpy(solution.T).float(), torch.eye(3)
    b3 = torch.from_numpy(mean_y - mean_x @ solution).float()
    w3 = torch.zeros(3, 4 * BASE)
    w3[:, :3] = torch.eye(3)
    fitted = {"fc1.weight": w1, "fc2.weight": w2, "fc3.weight": w3, "fc3.bias": b3}
    zeros = {name: torch.zeros_like(weights[name]) for name in ("fc1.bias", "fc2.bias")}
    return {**weights, **fitted, **zeros}


def tile_starts():
    """Where the daemon's patches start, in the reference's rows: as many in the patient's rows as cover the volume."""
    margin = (PATCH - STRIDE) // 2
    counts = [-(-n // STRIDE) for n in SIZE]
    starts = []
    for z, y, x in np.ndindex(*counts):
        z, y, x = (STRIDE * n - margin for n in (z, y, x))
        starts.append((z, SIZE[1] - y - PATCH, x))
    return starts


def body_at(place, starts, p):
    """The body coordinate (z, y, x) at a place (z, y, x; S, A, L mm): that of the patches around it, each carried there,
    blended by distance along each axis."""
    total, weights = np.zeros(3), 0.0
    middles = millimetres(starts)
    held = np.clip(place, middles.min(0), middles.max(0))
    for middle, own in zip(middles, p):
        weight = np.prod(np.clip(1 - np.abs(held - middle) / (STRIDE * MM), 0, None))
        total += weight * (RANGE * own + RANGE * np.arctanh((place - middle) / RANGE))
        weights += weight
    return total / weights


def main():
    out = Path(sys.argv[1])
    padded = reference(volume())
    weights = fit(published.random(SEED, BASE), padded)
    # four channels are all nearly zero here and there, and rounding counts where they are made length 1
    convert.TOLERANCE = 1e-2
    convert.write(weights, BASE, out, f"fixtures.py, seed {SEED}", "test", "Apache-2.0")
    starts = tile_starts()
    with torch.no_grad():
        p, (coarse, fine) = published.forward(weights, patches(padded, starts), full=False)
    expected = {"body": [], "fine": [], "coarse": []}
    flip = lambda v: [float(v[2]), float(-v[1]), float(v[0])]  # z, y, x of S, A, L to x, y, z of LPS
    for voxel in ((3, 9, 10), (10, 8, 9), (17, 6, 12)):  # of the 12 mm lattice, z, y, x in LPS
        at = np.array([ORIGIN[2 - a] + 12.0 * voxel[a] + 4.5 for a in range(3)])
        place = at * [1, -1, 1]
        expected["body"].append({"at": flip(place), "body": flip(body_at(place, starts, p.double().numpy()))})
    for name, features, step in (("fine", fine, 6.0), ("coarse", coarse, 12.0)):
        unit = published.unit(features).numpy()
        voxels = int(step / MM)
        last = millimetres([np.array([SIZE[0], 0, SIZE[2]]) - (PATCH + 1) / 2])[0]  # the last voxels to S and L
        for tile in range(0, len(starts), 7):
            # the voxel beyond the middle of the patch along each axis of the reference
            index = PATCH // voxels // 2
            place = millimetres([starts[tile]])[0] + step / 2
            if place[0] > last[0] or place[2] > last[2]:
                continue
            expected[name].append({"at": flip(place), "vector": [float(v) for v in unit[tile, :, index, index, index]]})
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
