"""Train the localisation network on a folder of unlabelled CT at 3 mm, and export it.

    python train.py --data <folder of .nii.gz> --work <scratch folder>
    python train.py --data <folder> --work <scratch folder> --export <folder for medlam.onnx>
"""
import argparse
import csv
import glob
import hashlib
import json
import math
import os
import time
import tomllib

import numpy as np
import torch
import torch.nn.functional as F

from scipy.spatial import cKDTree

import atlas
from crops import Source, View
from network import COARSE_CHANNELS, FINE_CHANNELS, Localiser
from volume import HU_KNOTS, MULTIPLE, PAD, SPACING_MM, Volume

WEIGHTS = {"place": 1.0, "pair": 0.5, "coarse": 0.3, "fine": 0.3}
# Labelled test cases, a crop that may show one of the same patients, and a scan whose origin is not stated.
EXCLUDED = ("lidc_0001", "totalseg_example", "totalseg_aorta_crop", "itkelastix_thorax")
# Volumes of one patient must not serve as "another patient".
SAME_PATIENT = {"acrin_breast_001_b": "acrin_breast_001_a", "elastix_lung_fup": "elastix_lung_base"}


# Volumes that nothing ties together lie this far apart, so that no place of one is a place of another.
APART_MM = 5000.0


def load_sources(data, anchors_path, work, log, anchored=True):
    anchors = atlas.load_anchors(anchors_path)
    paths = sorted(glob.glob(os.path.join(data, "*.nii.gz")))
    volumes = [Volume(p) for p in paths if os.path.basename(p).split(".")[0] not in EXCLUDED]
    if not anchored:
        return [Source(v, own_coordinate(v, i), v.body6()) for i, v in enumerate(volumes)]
    key = hashlib.sha256(json.dumps([anchors, [v.id for v in volumes]], sort_keys=True).encode()).hexdigest()[:12]
    cache = os.path.join(work, f"atlas-{key}.npz")
    if not os.path.exists(cache):
        coordinates, bodies, report = atlas.build(volumes, anchors, log=log)
        log(json.dumps(report))
        fields = {f"u:{v.id}": c.astype(np.float32) for v, c in zip(volumes, coordinates)}
        fields |= {f"b:{v.id}": b for v, b in zip(volumes, bodies)}
        np.savez(cache, **fields)
    stored = np.load(cache)
    return [Source(v, stored[f"u:{v.id}"], stored[f"b:{v.id}"]) for v in volumes]


def own_coordinate(volume, number):
    """The volume's own millimetres, for the ablation: the published loss knows no more."""
    index = np.indices(volume.hu6.shape, dtype=np.float32)
    middle = (np.array(volume.hu6.shape) - 1) / 2
    coordinate = SPACING_MM * (index - middle[:, None, None, None])
    coordinate[0] += APART_MM * number
    return coordinate.astype(np.float32)


def draw_samples(sources, patients, options, log):
    """Single voxels of many random views: what the network sees around them, and where in the body they lie.

    Views show the same `nodes` (places of the shared body), so that every node is met in several patients.
    """
    rng = np.random.default_rng(options.seed)
    everywhere = np.concatenate([s.canonical[rng.permutation(s.voxels)[:3000]] for s in sources])
    nodes = everywhere[rng.permutation(len(everywhere))[: options.nodes]]
    places = []
    for s in sources:
        distance, nearest = cKDTree(s.canonical).query(nodes)
        places.append((np.flatnonzero(distance < 9), nearest))
    weight = np.array([s.voxels for s in sources]) ** 0.6
    order = rng.choice(len(sources), size=options.views, p=weight / weight.sum())
    columns = {k: [] for k in ("node", "volume", "at", "near", "fine_node", "fine_volume", "fine_at", "fine_near")}
    for count, i in enumerate(order):
        view = View(sources[i], rng)
        known, nearest = places[i]
        x = torch.from_numpy(sources[i].points[nearest[known]])
        known = known[view.seen(x).numpy()]
        known = known[rng.permutation(len(known))[:180]]
        if len(known) < 20:
            continue
        points = view.snap(view.inward(torch.from_numpy(sources[i].points[nearest[known]])))
        columns["node"].append(torch.from_numpy(known))
        columns["volume"].append(torch.full((len(known),), i))
        columns["at"].append(view.coordinate(points))
        columns["near"].append(view.neighbourhoods(points).half())
        # fine features must tell a place from its surroundings: five points about each of a few nodes
        fine = known[known % 4 == 0][:32]
        points = view.inward(torch.from_numpy(sources[i].points[nearest[fine]]))
        around = torch.from_numpy(rng.normal(0, 1, (len(fine), 4, 3)).astype(np.float32))
        around = around / around.norm(dim=-1, keepdim=True) * torch.from_numpy(rng.uniform(12, 40, (len(fine), 4, 1)).astype(np.float32))
        points = torch.cat([points[:, None], points[:, None] + around], 1)
        columns["fine_node"].append(torch.from_numpy(fine))
        columns["fine_volume"].append(torch.full((len(fine),), i))
        columns["fine_at"].append(view.coordinate(points.reshape(-1, 3)).reshape(-1, 5, 3))
        columns["fine_near"].append(view.local(points.reshape(-1, 3)).half().reshape(len(fine), 5, -1))
        if count % 50 == 0:
            log(f"view {count} of {options.views}")
    samples = {k: torch.cat(v) for k, v in columns.items()}
    patient = torch.tensor([patients.index(p) for p in patients])
    with open(options.anchors, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    return samples | {"nodes": torch.from_numpy(nodes), "patient": patient, "views": len(order), "anchors": digest}


class Pairs:
    """Draws pairs of samples of one node, mostly of two patients."""

    def __init__(self, node, volume, patient, rng):
        order = torch.argsort(node, stable=True).numpy()
        self.sorted = order
        values, self.start, self.count = np.unique(node.numpy()[order], return_index=True, return_counts=True)
        enough = self.count > 1
        self.nodes, self.start, self.count = values[enough], self.start[enough], self.count[enough]
        self.owner = patient[volume].numpy()
        self.rng = rng

    def draw(self, which):
        """sample indices a, b for positions `which` of self.nodes"""
        rng, start, count = self.rng, self.start[which], self.count[which]
        a = self.sorted[start + (rng.random(len(which)) * count).astype(int)]
        b = self.sorted[start + (rng.random(len(which)) * count).astype(int)]
        for _ in range(4):
            poor = (self.owner[a] == self.owner[b]) & (rng.random(len(which)) < 0.8)
            again = self.sorted[start + (rng.random(len(which)) * count).astype(int)]
            b = np.where(poor, again, b)
        return a, b


def similarity_loss(query, keys, query_at, keys_at, radius, dead, sharpness=12.0):
    """Any key within `radius` mm of the anatomical place may be the match, none beyond may be: the shared
    coordinate is only good to about that radius between patients, so the network chooses within it."""
    distance = torch.cdist(query_at, keys_at)
    near, far = distance < radius, distance > radius + dead
    usable = near.any(1) & far.any(1)
    if usable.sum() < 4:
        return query.sum() * 0
    logits = sharpness * query[usable] @ keys.T
    near, far = near[usable], far[usable]
    positive = logits.masked_fill(~near, -1e4).logsumexp(1)
    everything = logits.masked_fill(~(near | far), -1e4).logsumexp(1)
    return (everything - positive).mean()


def losses(net, samples, pairs, fine_pairs, tree, rarity, rng, size, anchored=True):
    """One step: half of the nodes anywhere, half crowded about two places, where telling them apart is hard."""
    which = rng.choice(len(pairs.nodes), size=size // 2, p=rarity)
    for centre in rng.choice(len(pairs.nodes), size=2, p=rarity):
        crowd = tree.query_ball_point(tree.data[centre], 100)
        which = np.concatenate([which, rng.choice(crowd, size=size // 4)])
    a, b = pairs.draw(which)
    rows = torch.from_numpy(np.concatenate([a, b]))
    at = samples["at"][rows]
    position, coarse = net.from_samples(samples["near"][rows].float())
    error = position - at
    other = torch.randperm(len(rows))
    between = error - error[other]
    if not anchored:
        # only pairs of one volume are known to be related, and no place is known at all
        owner = samples["volume"][rows]
        order = torch.argsort(owner + torch.rand(len(rows)))
        same = owner[order[1:]] == owner[order[:-1]]
        between = (error[order[1:]] - error[order[:-1]])[same]
        error = error * 0
    result = {"place": F.smooth_l1_loss(error, torch.zeros_like(error), beta=8.0) / 20,
              "pair": F.smooth_l1_loss(between, torch.zeros_like(between), beta=8.0) / 20,
              "mm": error.detach().norm(dim=1).mean()}
    half = len(a)
    result["coarse"] = 0.5 * (similarity_loss(coarse[:half], coarse[half:], at[:half], at[half:], 16.0, 12.0)
                              + similarity_loss(coarse[half:], coarse[:half], at[half:], at[:half], 16.0, 12.0))
    a, b = fine_pairs.draw(rng.integers(len(fine_pairs.nodes), size=64))
    a, b = torch.from_numpy(a), torch.from_numpy(b)
    query = net.fine_from_samples(samples["fine_near"][a, 0].float())
    keys = net.fine_from_samples(samples["fine_near"][b].flatten(0, 1).float())
    result["fine"] = similarity_loss(query, keys, samples["fine_at"][a, 0], samples["fine_at"][b].flatten(0, 1), 9.0, 4.0)
    return result


def train(options):
    os.makedirs(options.work, exist_ok=True)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    log = lambda text: print(text, flush=True)
    cache = os.path.join(options.work, "samples.pt")
    if not os.path.exists(cache):
        sources = load_sources(options.data, options.anchors, options.work, log, not options.no_anchors)
        patients = [SAME_PATIENT.get(s.id, s.id) for s in sources]
        torch.save(draw_samples(sources, patients, options, log), cache)
    samples = torch.load(cache)
    if options.steps == 0:
        return
    rng = np.random.default_rng(options.seed + 1)
    pairs = Pairs(samples["node"], samples["volume"], samples["patient"], rng)
    fine_pairs = Pairs(samples["fine_node"], samples["fine_volume"], samples["patient"], rng)
    tree = cKDTree(samples["nodes"].numpy()[pairs.nodes])
    # most scans show the chest: without this the only pelvis and the two heads would hardly count
    crowding = np.array(tree.query_ball_point(tree.data, 60, return_length=True), dtype=float)
    rarity = 1 / crowding / (1 / crowding).sum()
    log(f"{len(samples['node'])} samples of {len(pairs.nodes)} nodes, {len(samples['fine_node'])} fine")
    net, average = Localiser(), Localiser()
    average.load_state_dict(net.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=0.05)
    step, spent = 0, 0.0
    path = os.path.join(options.work, "checkpoint.pt")
    if os.path.exists(path):
        stored = torch.load(path, map_location="cpu")
        net.load_state_dict(stored["net"])
        average.load_state_dict(stored["average"])
        optimiser.load_state_dict(stored["optimiser"])
        step, spent = stored["step"], stored["seconds"]
        rng.bit_generator.state = stored["rng"]
        log(f"resumed at step {step} after {spent / 60:.1f} minutes")
    curve = open(os.path.join(options.work, "curve.csv"), "a", newline="")
    writer = csv.writer(curve)
    begin, running = time.time() - spent, {}
    names = ("place", "pair", "coarse", "fine", "mm")
    while step < options.steps:
        rate = options.rate * min(1, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        terms = losses(net, samples, pairs, fine_pairs, tree, rarity, rng, options.batch, not options.no_anchors)
        loss = sum(w * terms[k] for k, w in WEIGHTS.items())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        decay = min(0.995, (step + 1) / (step + 10))
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), net.parameters()):
                mine.lerp_(theirs, 1 - decay)
        step += 1
        for k in names:
            v = float(terms[k])
            running[k] = running[k] * 0.97 + 0.03 * v if k in running else v
        if step % 20 == 0 or step == 1:
            row = [step, round(time.time() - begin, 1), f"{rate:.2e}"] + [f"{running[k]:.4f}" for k in names]
            writer.writerow(row)
            curve.flush()
            log(" ".join(map(str, row)))
        if step % 100 == 0 and step < options.steps:
            save(path, net, average, optimiser, step, time.time() - begin, rng, samples["views"], samples["anchors"])
    save(path, net, average, optimiser, step, time.time() - begin, rng, samples["views"], samples["anchors"])


def save(path, net, average, optimiser, step, seconds, rng, views, digest):
    torch.save({"net": net.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(), "step": step,
                "seconds": seconds, "rng": rng.bit_generator.state, "views": views, "anchors": digest}, path + ".new")
    os.replace(path + ".new", path)


def export(options):
    stored = torch.load(os.path.join(options.work, "checkpoint.pt"), map_location="cpu")
    net = Localiser()
    net.load_state_dict(stored["average"])
    net.eval()
    os.makedirs(options.export, exist_ok=True)
    path = os.path.join(options.export, "medlam.onnx")
    spatial = {2: "D", 3: "H", 4: "W"}
    half = {2: "D/2", 3: "H/2", 4: "W/2"}
    example = torch.rand(1, 1, 32, 40, 48)
    with torch.no_grad():
        torch.onnx.export(net, example, path + ".new", opset_version=17, input_names=["volume"],
                          output_names=["position", "coarse", "fine"], do_constant_folding=True,
                          dynamic_axes={"volume": spatial, "position": half, "coarse": half, "fine": spatial})
        outputs = [y.numpy() for y in net(example)]
    np.savez(os.path.join(options.work, "export-check.npz"), volume=example.numpy(), position=outputs[0], coarse=outputs[1], fine=outputs[2])
    with open(path + ".new", "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    parameters = sum(p.numel() for p in net.parameters())
    manifest = os.path.join(options.export, "model.toml")
    with open(manifest + ".new", "w") as f:
        f.write(manifest_text(digest, parameters, stored, options))
    # weights and manifest change together: the reader compares the digest
    os.replace(path + ".new", path)
    os.replace(manifest + ".new", manifest)
    print(f"{path}: step {stored['step']}, {parameters} parameters, {os.path.getsize(path)} bytes, sha256 {digest}")


def manifest_text(digest, parameters, stored, options):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "data.toml"), "rb") as f:
        data = tomllib.load(f)["data"]
    knots = ", ".join(f"[{hu:g}.0, {value}]" for hu, value in HU_KNOTS)
    lines = [
        'name = "medlam"', f'version = "{options.version}"', 'kind = "localiser"', 'family = "dense"', 'licence = "Apache-2.0"', 'file = "medlam.onnx"',
        f'sha256 = "{digest}"', f"parameters = {parameters}", 'axes = "LPS"', "", "[input]", f"spacing_mm = {SPACING_MM}",
        f"pad = {PAD}", f"multiple = {MULTIPLE}", "pad_value = 0.0", f"hu_knots = [{knots}]", "", "[output]", "position_stride = 2",
        "coarse_stride = 2", "fine_stride = 1", f"coarse_channels = {COARSE_CHANNELS}", f"fine_channels = {FINE_CHANNELS}", "",
        "[training]", f"steps = {stored['step']}", f"minutes = {stored['seconds'] / 60:.0f}", 'hardware = "CPU, 1 thread"',
        f"views = {stored['views']}", f"voxel_pairs_per_step = {options.batch}", 'optimiser = "AdamW, cosine schedule, average of the weights kept"',
        f"rate = {options.rate}", "weight_decay = 0.05", f"seed = {options.seed}",
        f"loss_weights = {{ {', '.join(f'{k} = {w}' for k, w in WEIGHTS.items())} }}",
        'anchors = "landmarks by eye (train/anchors.json; some are tips of outlined organs of the training volumes) and agreement of the pictures"',
        f'anchors_sha256 = "{stored["anchors"]}"', "",
    ]
    for row in data:
        lines += ["[[training.data]]"] + [f"{k} = {json.dumps(v)}" for k, v in row.items()] + [""]
    if options.figures:
        with open(options.figures) as f:
            lines += ["[figures]", f.read().strip(), ""]
    return "\n".join(lines)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of CT as .nii.gz, 3 mm")
    parser.add_argument("--anchors", default=os.path.join(here, "anchors.json"))
    parser.add_argument("--no-anchors", action="store_true", help="ablation: nothing ties the volumes together")
    parser.add_argument("--work", required=True, help="samples, checkpoint, curve and cached atlas; training resumes from it")
    parser.add_argument("--views", type=int, default=600, help="random views the training voxels are drawn from")
    parser.add_argument("--nodes", type=int, default=4000, help="places of the body met in several views")
    parser.add_argument("--steps", type=int, default=3000, help="0 only draws the samples")
    parser.add_argument("--batch", type=int, default=192, help="pairs of voxels per step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--export", help="write medlam.onnx and model.toml there from the checkpoint in --work, and stop")
    parser.add_argument("--version", default="0.1.0", help="version written to the manifest on export")
    parser.add_argument("--figures", help="TOML lines for the manifest's [figures]")
    options = parser.parse_args()
    export(options) if options.export else train(options)


if __name__ == "__main__":
    main()
