"""CT volumes on the canonical grid.

Every array is ordered [z, y, x] with the index growing toward Superior, Posterior and Left, and every
coordinate is a patient LPS position in millimetres, ordered (z, y, x) as well.
"""
import os

import nibabel
import numpy as np
from scipy import ndimage

FINE_MM = 3.0
SPACING_MM = 6.0
PAD = 8
MULTIPLE = 8
HU_KNOTS = ((-1000.0, 0.0), (-200.0, 0.2), (200.0, 0.8), (1500.0, 1.0))


def normalise(hu):
    x, y = zip(*HU_KNOTS)
    return np.interp(hu, x, y).astype(np.float32)


def read_canonical(path):
    """The stored array as canonical [z, y, x] and the affine of that array (index z,y,x -> LPS z,y,x)."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    data = np.asarray(image.dataobj)
    affine = image.affine
    if np.abs(affine[:3, :3] - np.diag(np.diag(affine[:3, :3]))).max() > 1e-3:
        raise ValueError(f"{path}: not aligned with the patient's axes")
    spacing = np.diag(affine)[:3]
    # RAS to LPS: flipping x and y makes the last stored voxel of those axes the first
    last = affine[:3, 3] + spacing * (np.array(data.shape) - 1)
    origin = np.array([affine[2, 3], -last[1], -last[0]])
    array = np.ascontiguousarray(data[::-1, ::-1, :].transpose(2, 1, 0))
    return array, origin, spacing[::-1].copy()


class Volume:
    """A CT at 3 mm with its 6 mm grid; `origin` is the centre of the first 3 mm voxel."""

    def __init__(self, path):
        self.id = os.path.basename(path).split(".")[0]
        hu, self.origin, spacing = read_canonical(path)
        if np.abs(spacing - FINE_MM).max() > 1e-3:
            raise ValueError(f"{path}: expected {FINE_MM} mm voxels, found {spacing}")
        self.hu = np.maximum(hu.astype(np.float32), -1024.0)
        self.shape = np.array(self.hu.shape)
        even = self.hu[tuple(slice(0, n // 2 * 2) for n in self.hu.shape)]
        z, y, x = (n // 2 for n in even.shape)
        self.hu6 = even.reshape(z, 2, y, 2, x, 2).mean((1, 3, 5))
        self.origin6 = self.origin + FINE_MM / 2

    def body6(self):
        """The patient without table: the largest piece denser than air, holes (lungs) filled slice by slice."""
        dense = ndimage.binary_opening(self.hu6 > -400, iterations=1)
        parts, count = ndimage.label(dense)
        if count == 0:
            return dense
        sizes = ndimage.sum(dense, parts, range(1, count + 1))
        body = parts == 1 + int(np.argmax(sizes))
        for k in range(body.shape[0]):
            # lungs open at the edge of a narrow field of view are enclosed too: close against the frame
            body[k] = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(body[k], 4), iterations=4)[4:-4, 4:-4])
        return body

    def network_input(self):
        """[D, H, W] for the network and the number of real voxels per axis (the rest is air)."""
        x = normalise(self.hu6)
        far = [-n % MULTIPLE for n in x.shape]
        return np.pad(x, [(PAD, f + PAD) for f in far])
