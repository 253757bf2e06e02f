"""The localisation network: body coordinate and multi-scale features of every voxel in one pass.

A pyramid rather than a U-Net: grey-scale windows of the scan are averaged at 12, 24 and 48 mm, one 3x3x3
convolution per scale (the last with holes, reaching 290 mm to every side) feeds a small perceptron at each voxel. All
learning sits in layers that need only the neighbourhoods of a voxel, so training draws single voxels of thousands of
views instead of convolving whole ones: two orders of magnitude less arithmetic per independent example.
"""
import torch
import torch.nn.functional as F
from torch import nn

COARSE_CHANNELS = 32
FINE_CHANNELS = 24
# Raw outputs of order one become millimetres; a plain constant keeps the gradients of the head well scaled.
POSITION_SCALE_MM = 200.0

# Grey-scale windows offered side by side: air and lung, fat, unenhanced and enhanced soft tissue, bone. All are zero
# in air, so padding with zeros continues the air around the patient and a voxel does not depend on the window it is in.
WINDOWS = ((0.0, 0.1), (0.08, 0.25), (0.25, 0.45), (0.4, 0.55), (0.5, 0.62), (0.55, 0.75), (0.7, 0.85), (0.8, 1.0))
# name, voxels of the 12 mm grid per voxel of the scale, smoothing passes at 48 mm, reach of the 3x3x3 kernel in voxels of the scale
SCALES = (("a", 1, 0, 1), ("b", 2, 0, 1), ("c", 4, 0, 1), ("d", 4, 1, 2), ("e", 4, 3, 4))


def windows(x):
    """[B, 1, ...] in 0..1 to [B, 8, ...] in 0..1."""
    low, high = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in zip(*WINDOWS))
    return ((x - low) * (1 / (high - low))).clamp(0, 1)


def pyramid(w12):
    """The smoothed maps of SCALES from the windows at 12 mm, each on the grid of its scale."""
    maps = [w12, F.avg_pool3d(w12, 2)]
    deep = F.avg_pool3d(maps[1], 2)
    passes = 0
    for _, _, smooth, _ in SCALES[2:]:
        while passes < smooth:
            deep = F.avg_pool3d(deep, 3, stride=1, padding=1)
            passes += 1
        maps.append(deep)
    return maps


def unit(x, dim=1):
    return x / torch.sqrt((x * x).sum(dim, keepdim=True) + 1e-6)


class Localiser(nn.Module):
    def __init__(self, first=320, second=128, local=96):
        super().__init__()
        kernel = lambda outputs: nn.Parameter(torch.randn(outputs, len(WINDOWS), 3, 3, 3) * 0.03)
        self.kernels = nn.ParameterList([kernel(first) for _ in SCALES])
        self.bias = nn.Parameter(torch.zeros(first))
        self.hidden = nn.Linear(first, second)
        self.position_head = nn.Linear(first + second, 3)
        self.coarse_head = nn.Linear(first + second, COARSE_CHANNELS)
        self.local6, self.local12, self.local24 = (nn.Parameter(torch.randn(local, len(WINDOWS), 3, 3, 3) * 0.05) for _ in range(3))
        self.local_bias = nn.Parameter(torch.zeros(local))
        self.local_hidden = nn.Linear(local, local // 2)
        self.fine_head = nn.Linear(local + local // 2, FINE_CHANNELS)

    def heads(self, first):
        """[N, first] of single voxels."""
        both = self.trunk(first)
        return POSITION_SCALE_MM * self.position_head(both), unit(self.coarse_head(both))

    def trunk(self, first):
        h = F.relu(first + self.bias)
        return torch.cat([h, F.relu(self.hidden(h))], 1)

    def gather(self, neighbourhoods):
        kernel = torch.cat([k.flatten(1) for k in self.kernels], 1)
        return neighbourhoods @ kernel.T

    def from_samples(self, neighbourhoods):
        """[N, scales * 8 * 27] gathered around voxels of the 12 mm grid."""
        return self.heads(self.gather(neighbourhoods))

    def fine_from_samples(self, neighbourhoods):
        """[N, 3 * 8 * 27] gathered at 6, 12 and 24 mm around points of the 6 mm grid."""
        kernel = torch.cat([k.flatten(1) for k in (self.local6, self.local12, self.local24)], 1)
        h = F.relu(neighbourhoods @ kernel.T + self.local_bias)
        return unit(self.fine_head(torch.cat([h, F.relu(self.local_hidden(h))], 1)))

    def forward(self, volume):
        w12 = windows(F.avg_pool3d(volume, 2))
        total = {}
        levels = pyramid(w12)
        for (_, stride, _, reach), kernel, level in zip(SCALES, self.kernels, levels):
            y = F.conv3d(level, kernel, padding=reach, dilation=reach)
            total[stride] = total[stride] + y if stride in total else y
        first = total[1]
        for stride in (2, 4):
            first = first + F.interpolate(total[stride], scale_factor=float(stride), mode="trilinear", align_corners=False)
        h = F.relu(first + self.bias.view(1, -1, 1, 1, 1))
        both = torch.cat([h, F.relu(dense(self.hidden, h))], 1)
        position = POSITION_SCALE_MM * dense(self.position_head, both)
        coarse = unit(dense(self.coarse_head, both))
        near = F.conv3d(windows(volume), self.local6, padding=1)
        for factor, level, kernel in ((2.0, levels[0], self.local12), (4.0, levels[1], self.local24)):
            wide = F.conv3d(level, kernel, padding=1)
            near = near + F.interpolate(wide, scale_factor=factor, mode="trilinear", align_corners=False)
        h = F.relu(near + self.local_bias.view(1, -1, 1, 1, 1))
        fine = unit(dense(self.fine_head, torch.cat([h, F.relu(dense(self.local_hidden, h))], 1)))
        return position, coarse, fine


def dense(layer, x):
    """A linear layer at every voxel."""
    return F.conv3d(x, layer.weight[..., None, None, None], layer.bias)
