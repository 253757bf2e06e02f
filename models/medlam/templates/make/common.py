"""Volumes on the canonical grid ([z, y, x], +S +P +L), masks on disk, pictures."""
import json
import os

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw

HERE = os.path.dirname(os.path.abspath(__file__))
WINDOWS = {"soft": (400, 40), "abdomen": (260, 60), "bone": (1800, 400), "lung": (1500, -600), "brain": (100, 40)}
COLOURS = [(255, 60, 60), (60, 255, 60), (80, 140, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255),
           (255, 140, 0), (160, 255, 160), (255, 180, 220), (180, 120, 255), (200, 200, 120), (120, 220, 255)]


class Volume:
    """3 mm CT. a[z, y, x] in HU; o = LPS millimetres of voxel 0 (x, y, z)."""

    def __init__(self, data, name):
        image = nib.load(os.path.join(data, name + ".nii.gz"))
        affine, a = image.affine, np.asarray(image.dataobj).astype(np.int16)
        assert min(affine[0, 0], affine[1, 1], affine[2, 2]) > 2.9, "expects 3 mm RAS"
        self.name, self.s = name, np.array([affine[0, 0], affine[1, 1], affine[2, 2]])
        nx, ny, _ = a.shape
        self.o = np.array([-(affine[0, 3] + self.s[0] * (nx - 1)), -(affine[1, 3] + self.s[1] * (ny - 1)), affine[2, 3]])
        self.a = np.ascontiguousarray(a[::-1, ::-1].transpose(2, 1, 0))

    def index(self, p):
        return (np.asarray(p, float) - self.o) / self.s

    def world(self, i):
        return self.o + np.asarray(i, float) * self.s

    def axis(self, k):
        """Coordinates of the planes along axis k (0 x, 1 y, 2 z)."""
        return self.o[k] + self.s[k] * np.arange(self.a.shape[2 - k])


def read_json(name):
    with open(os.path.join(HERE, name)) as f:
        return json.load(f)


def save_mask(root, volume, name, mask):
    os.makedirs(os.path.join(root, volume), exist_ok=True)
    np.savez_compressed(os.path.join(root, volume, name + ".npz"), m=np.packbits(mask), s=mask.shape)


def load_mask(root, volume, name):
    d = np.load(os.path.join(root, volume, name + ".npz"))
    shape = tuple(d["s"])
    return np.unpackbits(d["m"])[: np.prod(shape)].reshape(shape).astype(bool)


def mask_names(root, volume):
    folder = os.path.join(root, volume)
    return sorted(f[:-4] for f in os.listdir(folder)) if os.path.isdir(folder) else []


def to_grey(a, window):
    width, level = WINDOWS[window]
    return np.clip((a - (level - width / 2)) / width * 255, 0, 255).astype(np.uint8)


def describe(v, mask, name=""):
    if not mask.any():
        return name + " EMPTY"
    z, y, x = np.where(mask)
    lo, hi = v.world((x.min(), y.min(), z.min())), v.world((x.max(), y.max(), z.max()))
    return "%s %.0f mL, x %.0f..%.0f y %.0f..%.0f z %.0f..%.0f" % (
        name, mask.sum() * .027, lo[0], hi[0], lo[1], hi[1], lo[2], hi[2])


def picture(v, axis, mm, window="soft", scale=3, grid=50, masks=None, points=None, box=None):
    """One plane ('a', 'c' or 's' at mm) with a millimetre grid, mask outlines and points.
    Radiological display: the patient's left is on the right of axial and coronal pictures."""
    k = {"a": 2, "c": 1, "s": 0}[axis]
    h, w = {"a": (1, 0), "c": (2, 0), "s": (2, 1)}[axis]
    n = v.a.shape[::-1]
    lim = [[0, n[j] - 1] for j in range(3)]
    if box:
        for j in range(3):
            lim[j] = [max(0, int(round((box[2 * j] - v.o[j]) / 3))), min(n[j] - 1, int(round((box[2 * j + 1] - v.o[j]) / 3)))]
    i = min(max(int(round((mm - v.o[k]) / 3)), 0), n[k] - 1)

    def cut(b):
        p = np.take(b, i, axis=2 - k)[lim[h][0]:lim[h][1] + 1, lim[w][0]:lim[w][1] + 1]
        return p if axis == "a" else p[::-1]

    g = to_grey(cut(v.a), window)
    rows, cols = g.shape
    rgb = np.asarray(Image.fromarray(g).resize((cols * scale, rows * scale), Image.BICUBIC).convert("RGB")).copy()
    for c, m in enumerate((masks or {}).values()):
        b = np.pad(np.kron(cut(m), np.ones((scale, scale), bool)), 1)
        edge = b[1:-1, 1:-1] & ~(b[:-2, 1:-1] & b[2:, 1:-1] & b[1:-1, :-2] & b[1:-1, 2:])
        rgb[edge] = COLOURS[c % len(COLOURS)]
    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)

    def px(p):
        a, b = ((p[w] - v.o[w]) / 3 - lim[w][0] + .5) * scale, ((p[h] - v.o[h]) / 3 - lim[h][0] + .5) * scale
        return a, (b if axis == "a" else rows * scale - b)

    for j, vertical in ((w, True), (h, False)):
        for t in np.arange(np.ceil(v.axis(j)[lim[j][0]] / grid) * grid, v.axis(j)[lim[j][1]], grid):
            p = np.zeros(3)
            p[j] = t
            q = px(p)
            if vertical:
                draw.point([(q[0], y) for y in range(0, rows * scale, 6)], fill=(90, 200, 255))
                draw.text((q[0] + 1, rows * scale - 12), "%d" % t, fill=(90, 220, 255))
            else:
                draw.point([(x, q[1]) for x in range(0, cols * scale, 6)], fill=(255, 220, 90))
                draw.text((1, q[1] - 6), "%d" % t, fill=(255, 220, 90))
    for name, p in (points or {}).items():
        if abs(p[k] - mm) <= 6:
            a, b = px(p)
            draw.line((a - 4, b, a + 4, b), fill=(255, 0, 0))
            draw.line((a, b - 4, a, b + 4), fill=(255, 0, 0))
            draw.text((a + 4, b - 10), name, fill=(255, 90, 90))
    draw.text((2, 1), "%s %s=%.0f" % (v.name, "xyz"[k], v.o[k] + 3 * i), fill=(255, 255, 255))
    return image


def montage(images, columns, path):
    w, h = max(i.width for i in images) + 4, max(i.height for i in images) + 4
    sheet = Image.new("RGB", (w * columns, h * -(-len(images) // columns)), (60, 0, 60))
    for n, i in enumerate(images):
        sheet.paste(i, ((n % columns) * w, n // columns * h))
    sheet.save(path)
