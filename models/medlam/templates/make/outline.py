"""LiteMedSAM outlines from the hand-placed boxes of boxes.json.

  python outline.py --data <ct3mm> --masks <out> --encoder enc.onnx --decoder dec.onnx [volume[:structure] ...]

Encoder: image [1,3,256,256] -> embedding [1,256,64,64]; decoder: embedding, box [1,4] in model pixels
-> logits [1,1,256,256], iou [1,1] (export.py writes both from the published weights).
"boxes": box per key level (x0, x1, y0, y1 in mm), interpolated between levels, one outline per slice.
"track": one box, followed up and down; margins of several widths, kept by iou + 0.5 Dice to the neighbour.
Two millimetre-scale details: slices are encoded in steps of slice_step and the skipped ones interpolated by
signed distance; a structure listed with several parts is their union."""
import argparse

import numpy as np
import onnxruntime as ort
from PIL import Image
from scipy import ndimage as nd

from common import Volume, describe, read_json, save_mask, to_grey


def body_box(v, margin=6):
    b = nd.binary_opening(v.a > -300, iterations=3)
    labels, _ = nd.label(b)
    size = np.bincount(labels.ravel())
    size[0] = 0
    b = labels == size.argmax()
    x, y = np.where(b.any((0, 1)))[0], np.where(b.any((0, 2)))[0]
    m = margin / 3
    return (max(0, int(x[0] - m)), min(v.a.shape[2], int(x[-1] + m) + 1),
            max(0, int(y[0] - m)), min(v.a.shape[1], int(y[-1] + m) + 1))


class Outliner:
    def __init__(self, v, window, encoder, decoder, step):
        self.v, self.window, self.encoder, self.decoder, self.step = v, window, encoder, decoder, step
        self.crop, self.cache = body_box(v), {}

    def embed(self, z):
        if z not in self.cache:
            x0, x1, y0, y1 = self.crop
            g = to_grey(self.v.a[z, y0:y1, x0:x1], self.window).astype(np.float32)
            self.scale = 256 / max(g.shape)
            self.h, self.w = (int(n * self.scale + .5) for n in g.shape)
            im = np.asarray(Image.fromarray(g).resize((self.w, self.h), Image.BILINEAR))
            x = np.zeros((1, 3, 256, 256), np.float32)
            x[0, :, :self.h, :self.w] = (im - im.min()) / max(1e-8, im.max() - im.min())
            self.cache[z] = self.encoder.run(None, {self.encoder.get_inputs()[0].name: x})[0]
        return self.cache[z]

    def segment(self, z, box):
        x0, x1, y0, y1 = self.crop
        e, s = self.embed(z), None
        s = self.scale
        q = np.array([[(box[0] - x0) * s, (box[1] - y0) * s, (box[2] - x0) * s, (box[3] - y0) * s]], np.float32)
        names = [i.name for i in self.decoder.get_inputs()]
        logits, iou = self.decoder.run(None, {names[0]: e, names[1]: q})
        r = np.asarray(Image.fromarray(logits[0, 0, :self.h, :self.w]).resize((x1 - x0, y1 - y0), Image.BILINEAR))
        m = np.zeros(self.v.a.shape[1:], bool)
        m[y0:y1, x0:x1] = r > 0
        return m, float(iou.ravel()[0])

    def voxels(self, b):
        o = self.v.o
        return (b[0] - o[0]) / 3, (b[2] - o[1]) / 3, (b[1] - o[0]) / 3 + 1, (b[3] - o[1]) / 3 + 1


def signed(m):
    return nd.distance_transform_edt(m) - nd.distance_transform_edt(~m)


def largest(m):
    labels, n = nd.label(m)
    if n < 2:
        return m
    size = np.bincount(labels.ravel())
    size[0] = 0
    return labels == size.argmax()


def from_boxes(o, part, clip=4):
    v, m, done = o.v, np.zeros(o.v.a.shape, bool), set()
    zs = sorted(float(z) for z in part["boxes"])
    keys = np.array([part["boxes"]["%.1f" % z] for z in zs])
    lo, hi = int(np.ceil((zs[0] - v.o[2]) / 3 - .5)), int(np.floor((zs[-1] - v.o[2]) / 3 + .5))
    levels = list(range(max(0, lo), min(v.a.shape[0] - 1, hi) + 1))
    for z in levels:
        if (z - levels[0]) % o.step and z != levels[-1]:
            continue
        x0, y0, x1, y1 = o.voxels([np.interp(v.o[2] + 3 * z, zs, keys[:, k]) for k in range(4)])
        r, _ = o.segment(z, (x0, y0, x1, y1))
        near = np.zeros_like(r)
        near[max(0, int(y0 - clip)):int(np.ceil(y1 + clip)), max(0, int(x0 - clip)):int(np.ceil(x1 + clip))] = True
        r &= near
        if "hu" in part:
            a, b = part["hu"]
            r &= nd.binary_dilation((v.a[z] > a) & (v.a[z] < b)) & (v.a[z] > a - 60)
        m[z] = r
        done.add(z)
    for z in levels:
        if z not in done and m[z - 1].any() and m[z + 1].any():
            m[z] = signed(m[z - 1]) + signed(m[z + 1]) > 0
    m = nd.median_filter(m.astype(np.uint8), size=3).astype(bool) | (m & nd.binary_erosion(m))
    return np.stack([nd.binary_fill_holes(k) for k in largest(m)])


def track(o, part):
    v, m, done = o.v, np.zeros(o.v.a.shape, bool), set()
    lo = max(0, int(np.ceil((part["z_lo"] - v.o[2]) / 3 - .01)))
    hi = min(v.a.shape[0] - 1, int((part["z_hi"] - v.o[2]) / 3 + .01))

    def best(z, boxes, previous):
        found = None
        for b in boxes:
            r, iou = o.segment(z, b)
            if "hu" in part:
                r &= (v.a[z] > part["hu"][0]) & (v.a[z] < part["hu"][1])
            labels, n = nd.label(r)
            if not n:
                continue
            size = np.bincount(labels[previous] if previous is not None else labels.ravel(), minlength=n + 1)
            size[0] = 0
            if not size.max():
                continue
            r = nd.binary_fill_holes(labels == size.argmax())
            score = iou
            if previous is not None:
                score += .5 * 2 * (r & previous).sum() / (r.sum() + previous.sum())
            if found is None or score > found[0]:
                found = score, r
        return found

    z0 = int(round((part["z"] - v.o[2]) / 3))
    m[z0] = best(z0, [o.voxels(part["box"])], None)[1]
    done.add(z0)
    for step in (o.step, -o.step):
        previous, z = m[z0], z0 + step
        while lo <= z <= hi:
            y, x = np.where(previous)
            f = best(z, [(x.min() - p, y.min() - p, x.max() + 1 + p, y.max() + 1 + p) for p in part["margins_voxels"]], previous)
            if f is None or f[1].sum() < 4 or f[1].sum() > part["max_growth"] * previous.sum() + 12:
                break
            m[z] = previous = f[1]
            done.add(z)
            z += step
    if o.step > 1:
        for z in range(1, v.a.shape[0] - 1):
            if z not in done and z - 1 in done and z + 1 in done:
                m[z] = signed(m[z - 1]) + signed(m[z + 1]) > 0
    return m


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--masks", required=True)
    p.add_argument("--encoder", required=True)
    p.add_argument("--decoder", required=True)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("only", nargs="*", help="volume or volume:structure")
    a = p.parse_args()
    options = ort.SessionOptions()
    options.intra_op_num_threads = a.threads
    encoder, decoder = (ort.InferenceSession(f, options) for f in (a.encoder, a.decoder))
    book = read_json("boxes.json")
    for name, structures in book["volumes"].items():
        wanted = [n for n in structures if not a.only or name in a.only or name + ":" + n in a.only]
        if not wanted:
            continue
        v, outliners = Volume(a.data, name), {}
        for n in wanted:
            m = np.zeros(v.a.shape, bool)
            for part in structures[n]:
                w = part["window"]
                if w not in outliners:
                    outliners[w] = Outliner(v, w, encoder, decoder, book["slice_step"].get(name, 1))
                m |= {"boxes": from_boxes, "track": track}[part["op"]](outliners[w], part)
            save_mask(a.masks, name, n, m)
            print(describe(v, m, name + " " + n), flush=True)


if __name__ == "__main__":
    main()
