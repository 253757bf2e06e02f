"""A shared body coordinate for a handful of volumes, from landmarks and the pictures themselves.

The pair loss of the published method ties points of one volume only; with few scans every volume then keeps a
private offset. So all volumes are first laid over one another: every volume gets a map from canonical body
coordinates to its own millimetres (scale and shift per axis, then a smooth deformation) such that shared landmarks
meet and, where volumes overlap, lungs, bones, body outline and grey values agree as well as a smooth map allows.
No structure is labelled anywhere in this.
"""
import json

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from volume import SPACING_MM, normalise

CONTROL_MM = 40.0
LANDMARK_SIGMA_MM = 6.0


def landmarks_of(anchors, ids):
    """names, and [volume, landmark, zyx] with NaN where a volume lacks one; only names shared by two patients."""
    points = {i: {k: v for k, v in anchors.get(i, {}).items() if not k.startswith("_")} for i in ids}
    names = sorted({k for p in points.values() for k in p})
    names = [k for k in names if sum(k in p for p in points.values()) > 1]
    table = np.full((len(ids), len(names), 3), np.nan)
    for i, volume in enumerate(ids):
        for j, name in enumerate(names):
            if name in points[volume]:
                x, y, z = [np.nan if v is None else v for v in points[volume][name]]
                table[i, j] = (z, y, x)
    return names, table


def affine_fit(table, rounds=200, prior_scale=0.05, prior_mm=8.0):
    """Scale and shift per volume and axis, and mean landmark positions, by alternating ridge regression."""
    count = table.shape[0]
    scale, shift = np.ones((count, 3)), np.zeros((count, 3))
    have = ~np.isnan(table)
    # Volumes enter one by one, the one sharing most landmarks with those already placed first: alternating from a
    # common start would leave a chain head - chest - pelvis far from converged.
    placed = [int(have[..., 0].sum(1).argmax())]
    while True:
        mean = canonical_mean(table[placed], scale[placed], shift[placed])
        rest = [i for i in range(count) if i not in placed]
        shared = [(np.sum(have[i] & ~np.isnan(mean)), i) for i in rest]
        if not shared or max(shared)[0] == 0:
            break
        i = max(shared)[1]
        gap = table[i] - mean
        shift[i] = np.nan_to_num(np.nansum(gap, 0) / np.maximum((~np.isnan(gap)).sum(0), 1))
        placed.append(i)
    for _ in range(rounds):
        mean = canonical_mean(table, scale, shift)
        for i in range(count):
            for a in range(3):
                ok = have[i, :, a] & ~np.isnan(mean[:, a])
                if not ok.any():
                    continue
                x, y = mean[ok, a], table[i, ok, a]
                xm, ym = x.mean(), y.mean()
                weight = (prior_mm / prior_scale) ** 2
                scale[i, a] = (((x - xm) * (y - ym)).sum() + weight) / (((x - xm) ** 2).sum() + weight)
                shift[i, a] = ym - scale[i, a] * xm
        # the mean body keeps the mean size
        factor = scale.mean(0)
        scale /= factor
    return scale, shift, canonical_mean(table, scale, shift)


def canonical_mean(table, scale, shift):
    back = (table - shift[:, None]) / scale[:, None]
    have = ~np.isnan(back)
    total = np.where(have, back, 0).sum(0)
    return np.where(have.any(0), total / np.maximum(have.sum(0), 1), np.nan)


def channels_of(volume):
    """What is compared between patients: grey value, aerated lung, bone, body."""
    body = volume.body6()
    hu = volume.hu6
    soft = ndimage.gaussian_filter
    lung = soft((body & (hu < -500)).astype(np.float32), 1)
    bone = soft(((hu > 220) & body).astype(np.float32), 1)
    grey = soft(normalise(np.clip(hu, -300, 300)) * body, 0.7)
    return np.stack([1.0 * grey, 1.0 * lung, 0.7 * bone, 0.5 * soft(body.astype(np.float32), 1)]), body


class Maps(torch.nn.Module):
    """phi_i: canonical millimetres -> millimetres of volume i."""

    def __init__(self, scale, shift, low, high):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32))
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float32))
        cells = [int(np.ceil((h - l) / CONTROL_MM)) + 1 for l, h in zip(low, high)]
        self.control = torch.nn.Parameter(torch.zeros(len(scale), 3, *cells))

    def forward(self, i, points):
        unit = 2 * (points - self.low) / (self.high - self.low) - 1
        field = F.avg_pool3d(F.pad(self.control[i : i + 1], [1] * 6, mode="replicate"), 3, stride=1)
        moved = F.grid_sample(field, unit.flip(-1).reshape(1, -1, 1, 1, 3), padding_mode="border", align_corners=True)
        return self.scale[i] * points + self.shift[i] + moved.reshape(3, -1).T.reshape(points.shape)

    def roughness(self):
        c = self.control
        total = 0.0
        for d in (2, 3, 4):
            total = total + (c.diff(dim=d) ** 2).mean() + 2 * (c.diff(n=2, dim=d) ** 2).mean()
        return total / CONTROL_MM**2

    @torch.no_grad()
    def inverse(self, i, points, rounds=10):
        c = (points - self.shift[i]) / self.scale[i]
        for _ in range(rounds):
            c = c + 0.8 * (points - self(i, c)) / self.scale[i]
        return c


def sample(volume, field, points):
    """field [C, z, y, x] of the volume's 6 mm grid at points (zyx mm); second result: inside the field of view."""
    n = torch.tensor(field.shape[1:], dtype=torch.float32)
    index = (points - torch.tensor(volume.origin6, dtype=torch.float32)) / SPACING_MM
    unit = 2 * (index + 0.5) / n - 1
    out = F.grid_sample(field[None], unit.flip(-1).reshape(1, -1, 1, 1, 3), padding_mode="border", align_corners=False)
    inside = ((index >= 0) & (index <= n - 1)).all(-1)
    return out.reshape(len(field), -1), inside.reshape(-1)


def build(volumes, anchors, iterations=100, step_mm=14.0, seed=0, log=print):
    torch.manual_seed(seed)
    ids = [v.id for v in volumes]
    names, table = landmarks_of(anchors, ids)
    scale, shift, mean = affine_fit(table)
    residual = table - (scale[:, None] * mean + shift[:, None])
    log(f"{len(names)} shared landmarks; rms residual after scale and shift {np.sqrt(np.nanmean(residual**2, (0, 1)))} mm (z, y, x)")
    fields, bodies, reach, low, high = [], [], [], np.full(3, np.inf), np.full(3, -np.inf)
    for i, v in enumerate(volumes):
        field, body = channels_of(v)
        fields.append(torch.tensor(field))
        bodies.append(body)
        where = np.argwhere(body)
        ends = [(v.origin6 + SPACING_MM * index - shift[i]) / scale[i] for index in (where.min(0), where.max(0))]
        low, high = np.minimum(low, ends[0]), np.maximum(high, ends[1])
        # canonical points that can fall into this volume at all, with room for the deformation
        reach.append((torch.tensor(ends[0] - 30).float(), torch.tensor(ends[1] + 30).float()))
    low, high = low - 20, high + 20
    maps = Maps(scale, shift, low, high)
    axes = [torch.arange(float(l), float(h), step_mm) for l, h in zip(low, high)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    place = torch.nn.Parameter(torch.tensor(np.nan_to_num(mean), dtype=torch.float32))
    target = torch.tensor(table, dtype=torch.float32)
    known = ~torch.isnan(target)
    optimiser = torch.optim.Adam([{"params": [maps.control], "lr": 1.0}, {"params": [place], "lr": 0.5}])
    for step in range(iterations):
        if step == iterations * 2 // 3:
            for group in optimiser.param_groups:
                group["lr"] *= 0.3
        # a jittered, thinned grid: cheaper, and no grid artefacts
        points = grid.reshape(-1, 3)
        points = points[torch.randperm(len(points))[: len(points) // 3]]
        points = points + (torch.rand(3) - 0.5) * step_mm
        values, inside = torch.zeros(len(volumes), fields[0].shape[0], len(points)), torch.zeros(len(volumes), 1, len(points))
        for i, v in enumerate(volumes):
            near = torch.nonzero(((points > reach[i][0]) & (points < reach[i][1])).all(-1))[:, 0]
            value, seen = sample(v, fields[i], maps(i, points[near]))
            values[i] = values[i].index_copy(1, near, value)
            inside[i, 0, near] = seen.float()
        count = inside.sum(0)
        average = ((values * inside).sum(0) / count.clamp(min=1)).detach()
        difference = F.smooth_l1_loss(values, average.expand_as(values), reduction="none", beta=0.1)
        keep = inside * (count > 1)
        picture = (difference * keep).sum() / keep.sum().clamp(min=1)
        meet = torch.stack([maps(i, place) for i in range(len(volumes))])
        miss = torch.where(known, (meet - target.nan_to_num()) / LANDMARK_SIGMA_MM, torch.zeros(()))
        landmark = F.smooth_l1_loss(miss, torch.zeros_like(miss), reduction="sum", beta=1.0) / known.sum().clamp(min=1)
        loss = 20 * picture + 0.3 * landmark + 6 * maps.roughness()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 25 == 0 or step == iterations - 1:
            log(f"atlas {step}: picture {picture.item():.4f} landmark {landmark.item():.3f} roughness {maps.roughness().item():.4f}")
    coordinates = []
    for i, v in enumerate(volumes):
        # the maps are smooth: invert every second voxel and interpolate
        index = [np.arange(0, n + 1, 2) for n in v.hu6.shape]
        points = np.stack(np.meshgrid(*index, indexing="ij"), -1) * SPACING_MM + v.origin6
        coarse = maps.inverse(i, torch.tensor(points, dtype=torch.float32)).permute(3, 0, 1, 2)
        size = [2 * n - 1 for n in coarse.shape[1:]]
        full = F.interpolate(coarse[None], size=size, mode="trilinear", align_corners=True)[0]
        coordinates.append(full[(slice(None), *(slice(0, n) for n in v.hu6.shape))].numpy())
    spread = torch.where(known, meet.detach() - target.nan_to_num(), torch.zeros(())).abs()
    report = {"landmarks": {n: [round(float(x), 1) for x in place[j]] for j, n in enumerate(names)},
              "median_residual_mm": round(float(spread[known].median()), 2)}
    return coordinates, bodies, report


def load_anchors(path):
    with open(path) as f:
        return json.load(f)
