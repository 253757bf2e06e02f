"""Outlines that need no network: lungs, trachea, spinal canal, sternum, scapulae, clavicles, pelvis, brain, eyes, oesophagus.
Every rule starts from points read off pictures (tables below, LPS mm).

  python rules.py --data <ct3mm> --masks <out> [volume ...]"""
import argparse

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage as nd
from scipy.spatial import ConvexHull

from common import Volume, describe, save_mask

LUNGS = ["acrin_breast_001_a", "acrin_breast_013", "acrin_nsclc_042", "cmb_crc_01068", "cptac_pda_00189", "crlm_1004", "crlm_1006", "lidc_0314"]
# carina, level of the highest trachea slice
TRACHEA = {"acrin_breast_001_a": ((-22, 30, -345), -240), "acrin_nsclc_042": ((-2, -13, -103), 40),
           "cmb_crc_01068": ((-18, 14, -108), 99), "lidc_0314": ((-16, 175, -498), -400)}
CANAL = {"crlm_1006": (17, 107, -134), "cptac_pda_00189": (-28, 112, -68), "crlm_1004": (-8, 60, -229),
         "lidc_0314": (-15, 240, -541), "acrin_nsclc_042": (-7, 50, -180), "cmb_crc_01068": (-5, 88, -152),
         "acrin_breast_001_b": (-22, 85, -600), "acrin_breast_013": (-30, -82, -604), "acrin_breast_001_a": (-17, 35, -265)}
# z, centre x, half width, centre y
STERNUM = {
    "acrin_nsclc_042": [(-24, 8, 20, -78), (-40, 5, 35, -88), (-55, 8, 30, -97), (-75, 8, 20, -112), (-102, 5, 24, -130),
                        (-129, 5, 25, -145), (-156, 5, 25, -155), (-183, 5, 22, -160), (-205, 0, 20, -163), (-237, -3, 12, -170)],
    "acrin_breast_013": [(-508, -20, 35, -197), (-526, -18, 27, -195), (-540, -18, 18, -195), (-558, -20, 16, -195), (-588, -22, 15, -195),
                         (-606, -18, 20, -195), (-622, -18, 22, -195), (-640, -18, 20, -195), (-652, -18, 14, -195)],
    "lidc_0314": [(-462, -10, 20, 122), (-478, -8, 32, 118), (-496, -8, 28, 108), (-517, -12, 22, 98), (-535, -15, 27, 92),
                  (-553, -15, 27, 86), (-574, -12, 25, 80), (-592, -12, 20, 80), (-606, -8, 14, 80)],
    "cmb_crc_01068": [(-52, -10, 20, -55), (-65, -8, 35, -60), (-75, -10, 30, -66), (-90, -9, 18, -75), (-113, -9, 18, -81),
                      (-140, -7, 20, -91), (-167, -5, 22, -97), (-200, -3, 20, -105), (-218, -3, 12, -109)],
    "acrin_breast_001_a": [(-314, -17, 22, -38), (-325, -17, 35, -42), (-340, -17, 28, -47), (-352, -17, 20, -53), (-377, -17, 20, -62)]}
# highest level at which the scapula is clear of humerus and clavicle
SCAPULA = {"acrin_nsclc_042": -12, "cmb_crc_01068": -35, "acrin_breast_013": 0}
# z range, a point in each shaft
CLAVICLE = {"acrin_nsclc_042": ((-25, 50), {"clavicula_right": (-62, -43, 16), "clavicula_left": (52, -43, 16)})}
# lowest level (foramen magnum), a point inside
BRAIN = {"cptac_gbm_01192": (-72, (0, 40, 20)), "acrin_breast_001_a": (-140, (-18, -60, -70))}
EYES = {"cptac_gbm_01192": {"eye_right": (-36, -26, -11), "eye_left": (28, -26, -11)},
        "acrin_breast_001_a": {"eye_right": (-43, -116, -138), "eye_left": (20, -115, -139)}}
# radius, (z, x, y)
OESOPHAGUS = {
    "cptac_pda_00189": (8, [(-62, -11, 30), (-59, -12, 31), (-50, -12, 34), (-41, -14, 39), (-35, -14, 43), (-26, -15, 47), (-17, -18, 51), (-9, -19, 53)]),
    "crlm_1006": (7, [(-203, 28, 34), (-191, 29, 40), (-176, 26, 44), (-162, 25, 52)]),
    "cmb_crc_01068": (7, [(-206, 1, 22), (-200, 1, 26), (-191, -2, 30), (-179, -5, 33), (-170, -8, 34), (-155, -10, 35), (-140, -10, 36),
                          (-119, -11, 32), (-101, -15, 26), (-80, -12, 18), (-59, -6, 12), (-38, -6, -5), (-18, -4, -8)])}
PELVIS = "acrin_breast_001_b"
FULL = np.ones((3, 3, 3))


def largest(m, structure=None):
    labels, _ = nd.label(m, structure)
    size = np.bincount(labels.ravel())
    size[0] = 0
    return labels == size.argmax()


def trachea(v):
    (carina, top), m = TRACHEA[v.name], np.zeros(v.a.shape, bool)
    i = v.index(carina)

    def pick(z, y, x):
        for threshold in (-600, -700, -800, -850, -900):
            labels, n = nd.label(v.a[z] < threshold)
            best = None
            for k in range(1, n + 1):
                c = labels == k
                if 60 <= c.sum() * 9 <= 750:
                    cy, cx = nd.center_of_mass(c)
                    d = np.hypot(cy - y, cx - x)
                    if d < 6 and (best is None or d < best[0]):
                        best = d, c
            if best:
                return best[1]
        return None

    z0 = min(int(round(i[2])) + 5, v.a.shape[0] - 1)
    m[z0] = pick(z0, i[1], i[0])
    for step in (1, -1):
        last, z = m[z0], z0 + step
        while 0 <= z < v.a.shape[0] and carina[2] - 4 <= v.o[2] + 3 * z <= top:
            c = pick(z, *nd.center_of_mass(last))
            if c is None:
                break
            m[z] = last = c
            z += step
    return m


def lungs(v, airway):
    air = v.a < -400
    labels, n = nd.label(air)
    size = np.bincount(labels.ravel(), minlength=n + 1)
    outside = set(np.unique(np.concatenate([labels[:, 0].ravel(), labels[:, -1].ravel(), labels[:, :, 0].ravel(), labels[:, :, -1].ravel()])))
    m = np.zeros_like(air)
    for k in range(1, n + 1):
        if size[k] > 3000 and k not in outside:
            c = labels == k
            behind = v.name == "acrin_breast_013" and v.o[1] + 3 * nd.center_of_mass(c)[1] > -40  # air below the table
            if np.median(v.a[c]) > -985 and not behind:
                m |= c
    if airway is not None:
        m &= ~nd.binary_dilation(airway, iterations=2)
    depth = nd.distance_transform_edt(m)
    for t in (3, 4, 5, 6, 7):
        labels, _ = nd.label(depth > t)
        size = np.bincount(labels.ravel())
        size[0] = 0
        two = np.argsort(-size)[:2]
        if size[two[1]] > .25 * size[two[0]]:
            break
    two = sorted(two, key=lambda k: nd.center_of_mass(labels == k)[2])
    d = [nd.distance_transform_edt(labels != k) for k in two]
    for name, part in (("lung_right", m & (d[0] <= d[1])), ("lung_left", m & (d[1] < d[0]))):
        yield name, nd.binary_closing(np.pad(largest(part), 4), iterations=3)[4:-4, 4:-4, 4:-4]


def canal(v, threshold=170):
    """Centre line of the vertebral canal (soft hole inside bone), drawn as an ellipse of about 14 x 11 mm."""
    seed, found = CANAL[v.name], {}
    z0 = int(round((seed[2] - v.o[2]) / 3))
    for step in (1, -1):
        guess, z, missed = np.array([(seed[1] - v.o[1]) / 3, (seed[0] - v.o[0]) / 3]), z0, 0
        while 0 <= z < v.a.shape[0] and missed < 14:
            y0, x0 = (max(int(g) - 14, 0) for g in guess)
            s, best = v.a[z, y0:y0 + 29, x0:x0 + 29], None
            for t in (threshold, threshold - 40, threshold + 60, threshold + 120, threshold - 70):
                b = nd.binary_closing(np.pad(s > t, 3), iterations=2)[3:-3, 3:-3] | (s > t)
                labels, n = nd.label(nd.binary_opening(nd.binary_fill_holes(b) & ~(s > t)))
                for k in range(1, n + 1):
                    if 70 <= (labels == k).sum() * 9 <= 650:
                        c = np.array(nd.center_of_mass(labels == k)) + (y0, x0)
                        d = np.hypot(*(c - guess))
                        if d < 3 and (best is None or d < best[0] - .5):
                            best = d, c
                if best:
                    break
            if best:
                found[z], guess, missed = best[1], best[1] * .7 + guess * .3, 0
            else:
                missed += 1
            z += step
    known = sorted(found)
    zs = np.arange(known[0], known[-1] + 1)
    line = np.array([nd.median_filter(np.interp(zs, known, [found[k][i] for k in known]), 5) for i in (0, 1)])
    line = nd.gaussian_filter1d(line, 1.5, axis=1)
    m, (yy, xx) = np.zeros(v.a.shape, bool), np.mgrid[:v.a.shape[1], :v.a.shape[2]]
    for z, y, x in zip(zs, *line):
        m[z] = ((yy - y) / 1.9) ** 2 + ((xx - x) / 2.4) ** 2 <= 1
    return m


def sternum(v):
    t, m = sorted(STERNUM[v.name]), np.zeros(v.a.shape, bool)
    zs = [q[0] for q in t]
    for z, mm in enumerate(v.axis(2)):
        if zs[0] - 1.6 <= mm <= zs[-1] + 1.6:
            xc, half, yc = (np.interp(mm, zs, [q[k] for q in t]) for k in (1, 2, 3))
            x0, x1 = (int(round((xc + s * half - v.o[0]) / 3)) for s in (-1, 1))
            y0, y1 = (int(round((yc + s * 15 - v.o[1]) / 3)) for s in (-1, 1))
            s = np.pad(v.a[z, y0:y1 + 1, x0:x1 + 1] > 100, 2)
            m[z, y0:y1 + 1, x0:x1 + 1] = nd.binary_fill_holes(nd.binary_closing(s, iterations=2))[2:-2, 2:-2]
    return largest(nd.binary_opening(m, np.ones((1, 2, 2))), FULL)


def scapulae(v, lung):
    """Bone outside the rib cage (convex hull of the lungs in each slice + 13 mm), behind and to the side."""
    hull = np.zeros_like(lung)
    for z in range(lung.shape[0]):
        p = np.argwhere(lung[z])
        if len(p) >= 20:
            im = Image.new("1", lung.shape[1:][::-1])
            ImageDraw.Draw(im).polygon([tuple(map(int, q)) for q in p[ConvexHull(p).vertices][:, ::-1]], fill=1)
            hull[z] = np.asarray(im)
    far = np.stack([nd.distance_transform_edt(~h) * 3 if h.any() else np.full(h.shape, 99.) for h in hull])
    _, y, x = np.where(hull)
    xm, ym = v.o[0] + 3 * x.mean(), v.o[1] + 3 * y.mean()
    bone = (v.a > 140) & (v.axis(2) <= SCAPULA[v.name])[:, None, None] & hull.any((1, 2))[:, None, None] & (v.axis(1) > ym - 10)[None, :, None]
    for name, side in (("scapula_right", v.axis(0) < xm - 55), ("scapula_left", v.axis(0) > xm + 55)):
        b = bone & side[None, None, :]
        yield name, nd.binary_dilation(largest(b & (far > 17), FULL), FULL, iterations=2, mask=b & (far > 13))


def clavicles(v):
    (lo, hi), seeds = CLAVICLE[v.name]
    for name, seed in seeds.items():
        for t in (180, 220, 260, 300, 350):
            labels, _ = nd.label((v.a > t) & ((v.axis(2) >= lo) & (v.axis(2) <= hi))[:, None, None])
            i = v.index(seed).round().astype(int)
            w = labels[i[2] - 4:i[2] + 5, i[1] - 5:i[1] + 6, i[0] - 5:i[0] + 6]
            m = labels == np.bincount(w[w > 0]).argmax()
            if m.sum() * .027 < 45:
                yield name, nd.binary_dilation(m, mask=v.a > 150)
                break


def pelvis(v):
    """Bone split by hand-drawn limits along the sacro-iliac joints; the hips are kept above the acetabulum."""
    z, x, y = v.axis(2), v.axis(0), v.axis(1)
    right = np.interp(z, [-846, -800, -775, -760, -745, -730, -715, -700, -680], [-35, -45, -55, -55, -62, -70, -70, -62, -62])[:, None, None]
    left, xx = -36 - right, x[None, None, :]
    bone = nd.binary_closing(v.a > 130)
    hip = bone & ((z <= -680) & (z >= -800))[:, None, None] & (y > -20)[None, :, None] & ((z > -776)[:, None, None] | (y < 98)[None, :, None])
    yield "hip_right", largest(nd.binary_opening(hip & (xx < right)), FULL)
    yield "hip_left", largest(nd.binary_opening(hip & (xx > left)), FULL)
    front = np.interp(z, [-846, -740, -725, -712], [0, 55, 62, 85])[:, None, None]
    yield "sacrum", largest(bone & ((z <= -712) & (z >= -817))[:, None, None] & (y[None, :, None] > front) & (xx >= right) & (xx <= left), FULL)


def brain(v):
    low, seed = BRAIN[v.name]
    skull = nd.binary_closing(np.pad(v.a > 250, 4), iterations=2)[4:-4, 4:-4, 4:-4]
    m = ~skull & (v.a > -20) & (v.a < 130) & ((v.axis(2) >= low) & (v.axis(2) <= 99))[:, None, None]
    labels, _ = nd.label(nd.binary_erosion(m, iterations=3))
    i = v.index(seed).round().astype(int)
    return nd.binary_closing(nd.binary_dilation(labels == labels[i[2], i[1], i[0]], iterations=3) & m)


def ball(v, centre, radius=12.):
    g = np.indices(v.a.shape)
    return sum((v.o[k] + 3 * g[2 - k] - centre[k]) ** 2 for k in range(3)) <= radius ** 2


def tube(v, radius, line):
    m, (yy, xx) = np.zeros(v.a.shape, bool), np.mgrid[:v.a.shape[1], :v.a.shape[2]]
    zs = [q[0] for q in line]
    for z, mm in enumerate(v.axis(2)):
        if zs[0] - 1.5 <= mm <= zs[-1] + 1.5:
            x, y = (np.interp(mm, zs, [q[k] for q in line]) for k in (1, 2))
            m[z] = (v.o[1] + 3 * yy - y) ** 2 + (v.o[0] + 3 * xx - x) ** 2 <= radius ** 2
    return m


def outlines(v):
    n = v.name
    airway = trachea(v) if n in TRACHEA else None
    if airway is not None:
        yield "trachea", airway
    if n in LUNGS:
        both = np.zeros(v.a.shape, bool)
        if n == "acrin_breast_013":  # only the bifurcation is in view: keeps the main bronchi out of the lungs
            TRACHEA[n] = ((-17, -143, -518), 0)
            airway = trachea(v)
            del TRACHEA[n]
        for name, m in lungs(v, airway):
            both |= m
            yield name, m
        if n in SCAPULA:
            yield from scapulae(v, both)
    if n in CANAL:
        yield "spinal_cord", canal(v)
    if n in STERNUM:
        yield "sternum", sternum(v)
    if n in CLAVICLE:
        yield from clavicles(v)
    if n == PELVIS:
        yield from pelvis(v)
    if n in BRAIN:
        yield "brain", brain(v)
    for name, centre in EYES.get(n, {}).items():
        yield name, ball(v, centre)
    if n in OESOPHAGUS:
        yield "esophagus", tube(v, *OESOPHAGUS[n])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--masks", required=True)
    p.add_argument("only", nargs="*")
    a = p.parse_args()
    for name in sorted(set(LUNGS) | set(CANAL) | set(BRAIN)):
        if not a.only or name in a.only:
            v = Volume(a.data, name)
            for structure, m in outlines(v):
                save_mask(a.masks, name, structure, m)
                print(describe(v, m, name + " " + structure), flush=True)


if __name__ == "__main__":
    main()
