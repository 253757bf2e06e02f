"""Random views of the training volumes, and the neighbourhoods of single voxels drawn from them.

Geometry, field of view and grey values of a view vary, the anatomy does not. Mirror images are never made: left and
right must stay apart.
"""
import numpy as np
import torch
import torch.nn.functional as F

from network import SCALES, pyramid, windows
from volume import FINE_MM, SPACING_MM, normalise

COARSE_MM = 2 * SPACING_MM
# Knots of the warp of a view, and the largest standard deviation of their shifts before smoothing.
WARP_MM = 60.0
WARP_SIGMA_MM = 9.0
AROUND = torch.stack(torch.meshgrid(*[torch.tensor([-1.0, 0.0, 1.0])] * 3, indexing="ij"), -1).reshape(-1, 3)


class Source:
    """One volume prepared for fast resampling."""

    def __init__(self, volume, coordinate, body):
        self.id = volume.id
        hu = torch.tensor(volume.hu)[None, None]
        # means over 6 and 12 mm cubes at every 3 mm step: any point of them looks like a voxel of the grids at inference
        self.hu6 = F.avg_pool3d(F.pad(hu, [0, 1] * 3, mode="replicate"), 2, stride=1)
        self.hu12 = F.avg_pool3d(F.pad(hu, [1, 2] * 3, mode="replicate"), 4, stride=1)
        origin = torch.tensor(volume.origin, dtype=torch.float32)
        self.first_mm = origin - FINE_MM / 2
        self.last_mm = self.first_mm + FINE_MM * torch.tensor(hu.shape[2:], dtype=torch.float32)
        self.mean_origin = origin + FINE_MM / 2
        self.origin6 = torch.tensor(volume.origin6, dtype=torch.float32)
        self.coordinate = torch.tensor(coordinate)[None]
        self.body = torch.tensor(body.astype(np.float32))[None, None]
        inside = np.argwhere(body)
        self.voxels = len(inside)
        self.points = (volume.origin6 + SPACING_MM * inside).astype(np.float32)
        self.canonical = coordinate[:, inside[:, 0], inside[:, 1], inside[:, 2]].T

    def at(self, field, origin, spacing, points):
        """field [1, C, z, y, x] at points [..., zyx mm]: [C, ...]."""
        n = torch.tensor(field.shape[2:], dtype=torch.float32)
        unit = (2 * ((points - origin) / spacing + 0.5) / n - 1).flip(-1)
        out = F.grid_sample(field, unit.reshape(1, -1, 1, 1, 3), padding_mode="border", align_corners=False)
        return out.reshape(field.shape[1], *points.shape[:-1])


def rotation(angles):
    z, y, x = angles
    c, s = np.cos, np.sin
    about_z = np.array([[1, 0, 0], [0, c(z), -s(z)], [0, s(z), c(z)]])
    about_y = np.array([[c(y), 0, -s(y)], [0, 1, 0], [s(y), 0, c(y)]])
    about_x = np.array([[c(x), -s(x), 0], [s(x), c(x), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


class View:
    """One volume as another scan of another patient might show it. Its frame is centred on the volume's middle."""

    def __init__(self, source, rng):
        self.source = source
        self.middle = (source.first_mm + source.last_mm) / 2
        scale = rng.uniform(0.88, 1.14) * rng.uniform(0.93, 1.07, 3)
        matrix = rotation(rng.normal(0, np.deg2rad(5), 3)) @ np.diag(scale) + rng.normal(0, 0.03, (3, 3)) * (1 - np.eye(3))
        self.matrix = torch.tensor(matrix, dtype=torch.float32)
        self.inverse = torch.tensor(np.linalg.inv(matrix), dtype=torch.float32)
        extent = (source.last_mm - source.first_mm).numpy()
        low, high = source.first_mm.numpy().copy(), source.last_mm.numpy().copy()
        # a shorter scan, sometimes a narrower one
        if rng.random() < 0.7 and extent[0] > 100:
            length = rng.uniform(90, extent[0])
            low[0] += rng.uniform(0, extent[0] - length)
            high[0] = low[0] + length
        for axis in (1, 2):
            if rng.random() < 0.15:
                low[axis] += rng.uniform(0, 0.3) * extent[axis]
            if rng.random() < 0.15:
                high[axis] -= rng.uniform(0, 0.3) * extent[axis]
        self.low, self.high = torch.tensor(low), torch.tensor(high)
        self.radius = rng.uniform(140, 220) if rng.random() < 0.2 else None
        self.bare = rng.random() < 0.4
        self.gain = rng.uniform(0.6, 1.7) if rng.random() < 0.6 else 1.0
        self.slope, self.offset = rng.uniform(0.95, 1.05), rng.normal(0, 12)
        self.bend = rng.uniform(-1, 1, 2) * (0.07, 0.035) if rng.random() < 0.5 else (0.0, 0.0)
        self.noise = rng.uniform(0, 0.03)
        self.rng = rng
        half = extent / 2 / scale + 60
        cells = (np.ceil(2 * half / COARSE_MM / 4).astype(int) * 4).tolist()
        # organs differ in shape and place, not only in size: so a smooth warp as well
        knots = [int(np.ceil(c * COARSE_MM / WARP_MM)) + 3 for c in cells]
        warp = torch.tensor(rng.normal(0, rng.uniform(0, WARP_SIGMA_MM), (1, 3, *knots)), dtype=torch.float32)
        self.warp = F.avg_pool3d(F.pad(warp, [1] * 6, mode="replicate"), 3, stride=1) * 3
        self.warp_reach = torch.tensor(knots, dtype=torch.float32) * WARP_MM / 2
        self.grid_low = torch.tensor([-c * COARSE_MM / 2 for c in cells]) + torch.tensor(rng.uniform(-6, 6, 3), dtype=torch.float32)
        axes = [l + COARSE_MM * (torch.arange(c) + 0.5) for l, c in zip(self.grid_low, cells)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        self.cells = torch.tensor(cells)
        self.maps = pyramid(windows(self.read(source.hu12, grid)[None, None]))

    def outward(self, points):
        unit = (points / self.warp_reach).flip(-1).reshape(1, -1, 1, 1, 3)
        moved = F.grid_sample(self.warp, unit, padding_mode="border", align_corners=False).reshape(3, -1).T.reshape(points.shape)
        return (points + moved) @ self.matrix.T + self.middle

    def inward(self, points):
        """near enough: the body coordinate of a sample is read at where it came to lie"""
        found = (points - self.middle) @ self.inverse.T
        for _ in range(4):
            found = found + 0.9 * (points - self.outward(found)) @ self.inverse.T
        return found

    def seen(self, x):
        inside = ((x > self.low) & (x < self.high)).all(-1)
        if self.radius:
            inside = inside & (((x - self.middle)[..., 1:] ** 2).sum(-1) < self.radius**2)
        return inside

    def read(self, field, points):
        """normalised grey values at points of the view's frame"""
        x = self.outward(points)
        hu = self.source.at(field, self.source.mean_origin, FINE_MM, x)[0]
        keep = self.seen(x)
        if self.bare:  # no table, no clothes
            keep = keep & (self.source.at(self.source.body, self.source.origin6, SPACING_MM, x)[0] > 0.4)
        # contrast medium, calibration, kernel and dose differ between scans
        hu = torch.where((hu > 20) & (hu < 450), 20 + (hu - 20) * self.gain, hu) * self.slope + self.offset
        hu = torch.where(keep, hu, torch.full_like(hu, -1024))
        y = torch.from_numpy(normalise(hu.numpy()))
        y = y + self.bend[0] * torch.sin(np.pi * y) + self.bend[1] * torch.sin(2 * np.pi * y)
        noise = torch.from_numpy(self.rng.standard_normal(y.shape, dtype=np.float32)) * self.noise
        return (y + noise * (y > 0.005)).clamp(0, 1)

    def snap(self, points):
        """the centre of the 12 mm voxel that holds each point, in the view's frame"""
        return self.grid_low + COARSE_MM * ((points - self.grid_low) / COARSE_MM).floor() + COARSE_MM / 2

    def coordinate(self, points):
        return self.source.at(self.source.coordinate, self.source.origin6, SPACING_MM, self.outward(points)).T

    def neighbourhoods(self, points, which=range(len(SCALES))):
        """[N, scales * 8 * 27]: what the convolutions of the network see at these points."""
        columns = []
        for k in which:
            _, stride, _, reach = SCALES[k]
            level = self.maps[k]
            n = torch.tensor(level.shape[2:], dtype=torch.float32)
            index = (points - self.grid_low) / (COARSE_MM * stride) - 0.5
            index = index[:, None] + AROUND * reach
            unit = (2 * (index + 0.5) / n - 1).flip(-1)
            value = F.grid_sample(level, unit[None, :, :, None], padding_mode="zeros", align_corners=False)[0, ..., 0]
            columns.append(value.permute(1, 0, 2).flatten(1))
        return torch.cat(columns, 1)

    def local(self, points):
        """[N, 3 * 8 * 27] for the fine features."""
        near = self.read(self.source.hu6, points[:, None] + AROUND * SPACING_MM)
        near = windows(near[None, None, :, :, None])[0, ..., 0].permute(1, 0, 2).flatten(1)
        return torch.cat([near, self.neighbourhoods(points, which=[0, 1])], 1)
