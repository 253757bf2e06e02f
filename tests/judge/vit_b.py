#!/usr/bin/env python3
"""What PyTorch's SAM ViT-B outlines on one CT slice, with random weights: to be compared with the daemon's own segmenter.

The real MedSAM weights can not be fetched, so this makes some in their layout. Shares no code with the daemon: the network is
Meta's (PyPI segment-anything 1.0), the slice is read by nibabel, turned and resized here.

    vit_b.py --ct CT.nii.gz --box X0 X1 Y0 Y1 Z --clip MM --out DIR

--box   patient millimetres (LPS), pixel centre to pixel centre, on the slice nearest Z
--clip  nothing counts farther outside the box
--spline  enlarge by a cubic spline, as MedSAM's own scripts do, instead of by cubic convolution, as the daemon does: random
        weights hang on every grey value, and 4 % of the mask's pixels change
Writes medsam_vit_b.pth, the image and logits as raw float32, and answer.json. Needs torch, numpy, scipy, nibabel, and
segment-anything on the path (torchvision is not needed).
"""

import argparse
import json
import sys
import types
from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy.ndimage import zoom

SIZE = 1024


def sam():
    """Meta's code imports torchvision for its mask generator, which is not used here."""
    for name in ["torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms", "torchvision.transforms.functional"]:
        sys.modules.setdefault(name, types.ModuleType(name))
    vars(sys.modules["torchvision.ops.boxes"]).update(batched_nms=None, box_area=None)
    vars(sys.modules["torchvision.transforms.functional"]).update(resize=None, to_pil_image=None)
    from segment_anything.build_sam import build_sam_vit_b

    torch.manual_seed(1)
    network = build_sam_vit_b().eval()
    for name, weight in network.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero as Meta's code makes them: they would test nothing
            torch.nn.init.normal_(weight, std=0.1)
    return network


def slice_at(path, z):
    """HU with columns to the left and rows to the back; the first pixel's x and y in LPS, and the spacing."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    spacing, origin = np.diag(image.affine)[:3], image.affine[:3, 3]
    k = round((z - origin[2]) / spacing[2])
    hu = np.asarray(image.dataobj)[::-1, ::-1, k].T.astype(np.float64)
    last = origin + spacing * (np.array(image.shape) - 1)
    return hu, [-last[0], -last[1]], spacing[:2]


def cubic(n):
    """Cubic convolution (a = -1/2) from n pixels to SIZE, as a matrix; beyond the border the outermost pixel goes on."""
    at = (np.arange(SIZE) + 0.5) * n / SIZE - 0.5
    matrix = np.zeros((SIZE, n))
    for tap in range(-1, 3):
        x = np.abs(at - np.floor(at) - tap)
        weight = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
        np.add.at(matrix, (np.arange(SIZE), np.clip(np.floor(at).astype(int) + tap, 0, n - 1)), weight)
    return matrix


def prepared(hu, spline):
    """As MedSAM was trained: window 400/40, cubic to 1024 x 1024 whatever the aspect, minimum and maximum to 0 and 1."""
    grey = (np.clip(hu, -160, 240) + 160) / 400 * 255
    if spline:
        large = zoom(grey, [SIZE / n for n in grey.shape], order=3, mode="reflect", grid_mode=True)
    else:
        large = cubic(grey.shape[0]) @ grey @ cubic(grey.shape[1]).T
    return ((large - large.min()) / (large.max() - large.min())).astype(np.float32)


def answer(network, image, box, shape, inside):
    """Logits and mask. The decoder's random weights are drawn until the mask is neither nothing nor all."""
    with torch.no_grad():
        embedding = network.image_encoder(torch.from_numpy(image)[None, None].repeat(1, 3, 1, 1))
        sparse, dense = network.prompt_encoder(points=None, boxes=torch.from_numpy(box)[None], masks=None)
        for seed in range(100):
            torch.manual_seed(seed)
            for layer in network.mask_decoder.modules():
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()
            logits, iou = network.mask_decoder(
                image_embeddings=embedding, image_pe=network.prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense, multimask_output=False)
            shown = torch.nn.functional.interpolate(logits, shape, mode="bilinear", align_corners=False)[0, 0].numpy()
            share = (shown > 0)[inside].mean()
            if 0.3 < share < 0.7:
                return logits.numpy(), float(iou), (shown > 0) & inside
    sys.exit("no random decoder outlines a part of the box")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--ct", required=True)
    p.add_argument("--box", nargs=5, type=float, required=True)
    p.add_argument("--clip", type=float, required=True)
    p.add_argument("--out", required=True, type=Path)
    p.add_argument("--spline", action="store_true")
    a = p.parse_args()
    network = sam()
    hu, origin, spacing = slice_at(a.ct, a.box[4])
    corners = (np.array(a.box[:4]).reshape(2, 2).T - origin) / spacing  # (x, y) of both corners, in pixels
    box = ((corners + 0.5) * SIZE / np.array(hu.shape[::-1]) - 0.5).astype(np.float32).ravel()
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]]
    low, high = corners[0] - a.clip / spacing - 1e-6, corners[1] + a.clip / spacing + 1e-6
    inside = (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
    image = prepared(hu, a.spline)
    logits, iou, mask = answer(network, image, box, hu.shape, inside)
    torch.save(network.state_dict(), a.out / "medsam_vit_b.pth")
    image.tofile(a.out / "image.f32")
    logits.tofile(a.out / "logits.f32")
    facts = {"origin": [float(v) for v in origin], "spacing": [float(v) for v in spacing], "box": box.tolist(), "iou": iou,
             "mask": mask.astype(int).tolist()}
    (a.out / "answer.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
