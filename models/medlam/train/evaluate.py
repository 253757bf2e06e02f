"""Between-patient accuracy of an exported model: labelled test cases are queries, template points come from other
patients. Needs onnxruntime instead of torch.

    python evaluate.py --model ../medlam.onnx --data <ct3mm> --labelled <labelled> --templates ../templates
"""
import argparse
import glob
import json
import os
import time

import numpy as np
import onnxruntime
from scipy import ndimage

from volume import PAD, SPACING_MM, Volume, read_canonical

FACES = ("z_min", "y_min", "x_min", "z_max", "y_max", "x_max")
UNITE = {
    "lung_left": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
    "lung_right": ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
    "vertebra_T5": ("vertebrae_T5",), "vertebra_T10": ("vertebrae_T10",),
    "vertebra_L1": ("vertebrae_L1",), "vertebra_L3": ("vertebrae_L3",),
}


class Field:
    """Network outputs of one volume, addressed by millimetres."""

    def __init__(self, session, volume):
        self.volume = volume
        begin = time.time()
        outputs = session.run(None, {"volume": volume.network_input()[None, None]})
        self.seconds = time.time() - begin
        self.position, self.coarse, self.fine = (y[0] for y in outputs)
        # centre of output voxel 0 in millimetres: the grids carry PAD voxels of air in front
        self.fine_origin = volume.origin6 - PAD * SPACING_MM
        self.half_origin = self.fine_origin + SPACING_MM / 2
        body = volume.body6()
        centres = np.argwhere(body[::2, ::2, ::2])
        index = centres + PAD // 2
        self.voxels = self.half_origin + 2 * SPACING_MM * index
        self.values = self.position[:, index[:, 0], index[:, 1], index[:, 2]].T

    def at(self, field, origin, spacing, points):
        index = (np.asarray(points) - origin) / spacing
        return np.stack([ndimage.map_coordinates(c, index.reshape(-1, 3).T, order=1, mode="nearest") for c in field], -1).reshape(
            *index.shape[:-1], len(field))

    def coordinate(self, point):
        return self.at(self.position, self.half_origin, 2 * SPACING_MM, point[None])[0]

    def find(self, coordinate):
        gap = coordinate - self.values
        distance = np.sqrt((gap**2).sum(1))
        near = np.argsort(distance)[:64]
        votes = self.voxels[near] + gap[near]
        centre = np.median(votes, 0)
        weight = 1 / (1 + (np.sqrt(((votes - centre) ** 2).sum(1)) / 10) ** 2) / (10 + distance[near])
        return (votes * weight[:, None]).sum(0) / weight.sum(), distance[near[0]]

    def cube(self, point):
        steps = np.array([-9.0, -3.0, 3.0, 9.0])
        offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1)
        fine = self.at(self.fine, self.fine_origin, SPACING_MM, point + offsets)
        steps = np.array([-12.0, 0.0, 12.0])
        offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1)
        coarse = self.at(self.coarse, self.half_origin, 2 * SPACING_MM, point + offsets)
        return unit(fine), unit(coarse)

    def similarity(self, cubes, target, reach=24.0, step=6.0):
        """Mean cosine of both scales, summed over templates, on a lattice around the target."""
        ticks = np.arange(-reach, reach + 1, step)
        lattice = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), -1)
        total = 0.0
        # one dense sampling per scale, then shifted windows of it
        for scale, (field, origin, spacing, pitch, count, stride) in enumerate((
            (self.fine, self.fine_origin, SPACING_MM, 6.0, 4, 1), (self.coarse, self.half_origin, 2 * SPACING_MM, 6.0, 3, 2))):
            half = pitch * stride * (count - 1) / 2
            axis = np.arange(-reach - half, reach + half + 1e-6, pitch)
            dense = unit(self.at(field, origin, spacing, target + np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)))
            n = len(ticks)
            for cube in cubes:
                block = cube[scale]
                score = np.zeros((n, n, n))
                for a in range(count):
                    for b in range(count):
                        for c in range(count):
                            part = dense[a * stride : a * stride + n, b * stride : b * stride + n, c * stride : c * stride + n]
                            score += part @ block[a, b, c]
                total = total + score / count**3 / len(cubes)
        return total, lattice


def unit(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def refine(field, cubes, target, sigma):
    score, lattice = field.similarity(cubes, target)
    score = score - (lattice**2).sum(-1) / (2 * sigma**2)
    best = np.unravel_index(score.argmax(), score.shape)
    shift = lattice[best].copy()
    for axis in range(3):
        if 0 < best[axis] < score.shape[axis] - 1:
            low, high = (score[tuple(b + d * (k == axis) for k, b in enumerate(best))] for d in (-1, 1))
            bend = low - 2 * score[best] + high
            if bend < 0:
                shift[axis] += 6.0 * 0.5 * (low - high) / bend
    return target + shift


def truth_of(case, folder):
    labels = json.load(open(os.path.join(folder, case, "labels.json")))["labels"]
    array, origin, spacing = read_canonical(os.path.join(folder, case, "seg.nii.gz"))
    array = array.astype(np.int16)
    value = {name: int(v) for v, name in labels.items()}
    wanted = {name: (name,) for name in value} | UNITE
    found = {}
    for name, parts in wanted.items():
        if not all(p in value for p in parts):
            continue
        mask = np.isin(array, [value[p] for p in parts])
        where = np.argwhere(mask)
        if len(where) < 50:
            continue
        low, high = where.min(0), where.max(0)
        whole = (low > 0).all() and (high < np.array(mask.shape) - 1).all()
        points = {}
        for face in FACES:
            axis, bound = "zyx".index(face[0]), (low if face.endswith("min") else high)
            at = bound["zyx".index(face[0])]
            if at == 0 or at == mask.shape[axis] - 1:
                continue
            section = where[where[:, axis] == at]
            points[face] = origin + spacing * section[len(section) // 2]
        found[name] = {"complete": bool(whole), "extremes": points}
    return found


def templates_of(folder):
    """{volume: {structure: {face: zyx}}}"""
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        stored = json.load(open(path))
        found[stored["volume"]] = {
            name: {"complete": s.get("complete", True), "extremes": {f: np.array(p[::-1], float) for f, p in s.get("extremes", {}).items() if p}}
            for name, s in stored["structures"].items()
        }
    return found


def locate(query, fields, bank, name, face, sigma):
    points = [(fields[v], s[name]["extremes"][face]) for v, s in bank.items() if name in s and face in s[name]["extremes"]]
    if not points:
        return None
    guesses = [query.find(f.coordinate(p))[0] for f, p in points]
    coarse = np.median(guesses, 0)
    fine = refine(query, [f.cube(p) for f, p in points], coarse, sigma)
    return coarse, fine


def box_iou(a, b):
    inter = np.prod(np.maximum(0, np.minimum(a[1], b[1]) - np.maximum(a[0], b[0])))
    return inter / (np.prod(a[1] - a[0]) + np.prod(b[1] - b[0]) - inter)


def score(truth, found):
    """ALE, wall distance, box IoU of one complete structure; boxes from the faces' own coordinates, minima below maxima."""
    ale = np.mean([np.linalg.norm(found[f] - truth[f]) for f in FACES])
    box = lambda p: (np.array([p[a + "_min"][i] for i, a in enumerate("zyx")]), np.array([p[a + "_max"][i] for i, a in enumerate("zyx")]))
    t, g = box(truth), box(found)
    g = np.minimum(*g), np.maximum(*g)
    wall = np.abs(np.concatenate(t) - np.concatenate(g)).mean()
    return ale, wall, box_iou(t, g)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--labelled", required=True)
    parser.add_argument("--templates", help="folder of template points; without it each test case serves as the other's template")
    parser.add_argument("--cases", nargs="*", default=["lidc_0001", "totalseg_example"])
    parser.add_argument("--sigma", type=float, default=25.0, help="mm; how far the similarity may pull from the coordinate")
    parser.add_argument("--leave-one-out", action="store_true", help="also each template volume against the others")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", help="every structure, one row each")
    parser.add_argument("--figures", help="summary as TOML lines, for train.py --export --figures")
    options = parser.parse_args()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
    truth = {case: truth_of(case, options.labelled) for case in options.cases}
    bank = templates_of(options.templates) if options.templates else {}
    needed = sorted(set(bank) | set(options.cases))
    fields = {v: Field(session, Volume(os.path.join(options.data, v + ".nii.gz"))) for v in needed}
    print("seconds of inference:", {v: (f.volume.hu6.shape, round(f.seconds, 2)) for v, f in fields.items()})
    queries = [(case, truth[case], bank or {c: t for c, t in truth.items() if c != case}) for case in options.cases]
    if options.leave_one_out:
        patient = lambda v: v.removesuffix("_a").removesuffix("_b")
        queries += [(v, s, {w: t for w, t in bank.items() if patient(w) != patient(v)}) for v, s in bank.items()]
    rows = []
    for case, organs, templates in queries:
        for name, organ in sorted(organs.items()):
            results = {f: locate(fields[case], fields, templates, name, f, options.sigma) for f in organ["extremes"]}
            results = {f: r for f, r in results.items() if r is not None}
            if not results:
                continue
            errors = [np.mean([np.linalg.norm(r[k] - organ["extremes"][f]) for f, r in results.items()]) for k in (0, 1)]
            bias = np.mean([r[0] - organ["extremes"][f] for f, r in results.items()], 0)
            row = [case, name, "whole" if organ["complete"] else "cut", len(results), *errors, *bias]
            if organ["complete"] and len(results) == 6:
                for k in (0, 1):
                    row += list(score(organ["extremes"], {f: r[k] for f, r in results.items()})[1:])
            rows.append(row)
    head = "case structure view points ale_coarse ale_fine bias_z bias_y bias_x wall_coarse iou_coarse wall_fine iou_fine".split()
    print(" ".join(head))
    for row in rows:
        print(" ".join(str(x) if isinstance(x, (str, int)) else f"{x:.2f}" for x in row))
    if options.csv:
        with open(options.csv, "w") as f:
            for row in [head, *rows]:
                f.write(",".join(str(x) if isinstance(x, (str, int)) else f"{x:.3f}" for x in row) + "\n")
    for case in [q[0] for q in queries] + ["all labelled"]:
        group = [r for r in rows if (r[0] in options.cases if case == "all labelled" else r[0] == case)]
        whole = [r for r in group if len(r) == len(head)]
        if not group:
            continue
        text = f"{case}: {len(group)} structures, ALE coarse {np.mean([r[4] for r in group]):.1f} (median {np.median([r[4] for r in group]):.1f}) fine {np.mean([r[5] for r in group]):.1f} (median {np.median([r[5] for r in group]):.1f})"
        if whole:
            m = np.mean([r[4:6] + r[9:] for r in whole], 0)
            text += f"; {len(whole)} whole: ALE {m[0]:.1f}/{m[1]:.1f} wall {m[2]:.1f}/{m[4]:.1f} IoU {m[3]:.2f}/{m[5]:.2f} (coarse/fine)"
        print(text)
    if options.figures:
        whole = [r for r in rows if len(r) == len(head) and r[0] in options.cases]
        with open(options.figures, "w") as f:
            f.write('how = "train/evaluate.py: extreme points of labelled cases located with template points of other patients"\n')
            for case in options.cases:
                group = [r for r in whole if r[0] == case]
                if group:
                    m = np.mean([r[4:6] + r[9:] for r in group], 0)
                    f.write(f"{case} = {{ structures = {len(group)}, templates = {len(bank)}, ale_coarse_mm = {m[0]:.1f}, ale_mm = {m[1]:.1f}, "
                            f"wall_mm = {m[4]:.1f}, box_iou_coarse = {m[3]:.2f}, box_iou = {m[5]:.2f} }}\n")


if __name__ == "__main__":
    main()
