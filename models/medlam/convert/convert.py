#!/usr/bin/env python3
"""Turns the published MedLAM checkpoint into a model directory of medlsamd.

    python3 convert.py medlam.pth --out ../../medlam_patch
    python3 convert.py --random 1 --out /tmp/random            random weights in the published layout, to try the way

Writes OUT/medlam_patch.onnx and OUT/model.toml, after ONNX Runtime has answered as PyTorch does with the network as published.

    patch [n, 1, 64, 64, 64] -> position [n, 3], coarse [n, 96, 16, 16, 16], fine [n, 96, 32, 32, 32]

Equal to rounding: the three linear layers, which have nothing between them, become one; biases before an instance norm,
which takes them out again, go; so does the classifier, which nothing reads. Left out: the features at 3 mm. They cost three
quarters of the arithmetic, and the localiser refines its peaks below the voxel instead.
"""
import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

import published
from published import PATCH

OPSET = 17
FILE = "medlam_patch.onnx"
# Rounding of another order of summation: 1e-5 is usual, a wrong layer gives 1e-1.
TOLERANCE = 1e-3
MANIFEST = """\
# Made by models/medlam/convert/convert.py from {origin}.
name = "medlam-patch"
version = "{version}"
kind = "localiser"
family = "patch"
licence = "{licence}"
file = "{file}"
sha256 = "{sha256}"

[input]
# axes of a patch: z to Superior, y to Anterior, x to Left
spacing_mm = 3.0
patch = 64
# patches are laid this many voxels apart, and as much of their middle is used: 8, 16, 24, 32, 40 or 48; less is slower
stride = 24
# patches in one run of the network: 1 or 2 for a processor, more for a GPU
batch = 1
hu_knots = [[-1000.0, 0.0], [-200.0, 0.2], [200.0, 0.8], [1500.0, 1.0]]

[output]
# displacement = range * tanh(difference of positions), z, y, x
range_mm = [1500.0, 600.0, 600.0]
coarse_mm = 12.0
fine_mm = 6.0

[check]
# largest difference to PyTorch, network as published: position, features of length 1
position = {position:.1e}
features = {features:.1e}
"""
LICENCE = (
    "unclear: the MedLSAM repository's LICENSE file says Apache-2.0, its README CC-BY-NC 4.0, the weights nothing; "
    "treat as non-commercial until the authors say otherwise"
)


def graph(weights, base):
    """The simplified network as an ONNX model."""
    nodes, constants = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def conv(name, x):
        weight = constant(f"{name}.weight", weights[f"{published.conv_key(name)}.weight"].numpy())
        channels = weights[f"{published.conv_key(name)}.bias"].numel()
        one = constant(f"{name}.one", np.ones(channels, np.float32))
        zero = constant(f"{name}.zero", np.zeros(channels, np.float32))
        x = node("Conv", [x, weight], f"{name}.conv", kernel_shape=[3, 3, 3], pads=[1] * 6)
        x = node("InstanceNormalization", [x, one, zero], f"{name}.norm", epsilon=1e-5)
        return node("Relu", [x], f"{name}.out")

    def unit(x, output):
        length = node("ReduceL2", [x], f"{output}.length", axes=[1], keepdims=1)
        return node("Div", [x, node("Max", [length, "least"], f"{output}.divisor")], output)

    constant("least", np.array(published.LEAST, np.float32))
    scales = constant("scales", np.array([1, 1, 2, 2, 2], np.float32))
    x, skips = "patch", []
    for level in range(published.LEVELS):
        if level:
            x = node("MaxPool", [x], f"pool{level}", kernel_shape=[2, 2, 2], strides=[2, 2, 2])
        x = conv(f"conv{level}_2", conv(f"conv{level}_1", x))
        skips.append(x)
    weight, bias = affine(weights)
    flat = node("Flatten", [x], "flat", axis=1)
    node("Gemm", [flat, constant("position.weight", weight), constant("position.bias", bias)], "position", transB=1)
    for level in (5, 6, 7):
        x = node("Resize", [x, "", scales], f"up{level}", mode="linear", coordinate_transformation_mode="half_pixel")
        x = node("Concat", [x, skips[8 - level]], f"cat{level}", axis=1)
        x = conv(f"conv{level}_2", conv(f"conv{level}_1", x))
        if level > 5:
            unit(x, ("coarse", "fine")[level - 6])
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
    outputs = [value("position", [3]), value("coarse", [4 * base, 16, 16, 16]), value("fine", [4 * base, 32, 32, 32])]
    body = helper.make_graph(nodes, "medlam", [value("patch", [1, PATCH, PATCH, PATCH])], outputs, constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def affine(weights):
    """fc3 . fc2 . fc1 as one map."""
    (w1, b1), (w2, b2), (w3, b3) = (
        (weights[f"{n}.weight"].double(), weights[f"{n}.bias"].double()) for n in ("fc1", "fc2", "fc3")
    )
    return (w3 @ w2 @ w1).float().numpy(), (w3 @ (w2 @ b1 + b2) + b3).float().numpy()


def differences(weights, model, count):
    """Largest difference of position and of unit features between ONNX Runtime and the network as published."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(7)
    position = features = 0.0
    for n in range(count):
        # blocks of all sizes, and air in one corner as at the skin
        patch = sum(
            torch.nn.functional.interpolate(torch.rand((1, 1, s, s, s), generator=generator), size=[PATCH] * 3)
            for s in (2, 4, 16, PATCH)
        ) / 4
        patch[..., : 8 * n, :, :] = 0
        with torch.no_grad():
            p, wanted = published.forward(weights, patch, full=False)
        said = session.run(["position", "coarse", "fine"], {"patch": patch.numpy()})
        position = max(position, float((p - torch.from_numpy(said[0])).abs().max()))
        for one, other in zip(wanted, said[1:]):
            features = max(features, float((published.unit(one) - torch.from_numpy(other)).abs().max()))
    return position, features


def write(weights, base, out, origin, version, licence, patches=2):
    """Converts, checks and writes; returns the differences."""
    model = graph(weights, base)
    position, features = differences(weights, model, patches)
    if not max(position, features) < TOLERANCE:
        raise published.CheckpointError(f"ONNX Runtime differs from PyTorch by {position:.1e} and {features:.1e}")
    out.mkdir(parents=True, exist_ok=True)
    (out / FILE).write_bytes(model)
    text = MANIFEST.format(
        origin=origin, version=version, licence=licence, file=FILE, sha256=hashlib.sha256(model).hexdigest(),
        position=position, features=features,
    )
    (out / "model.toml").write_text(text)
    return position, features


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", help="the published medlam.pth")
    parser.add_argument("--out", type=Path, required=True, help="the model directory to write")
    parser.add_argument("--random", type=int, metavar="SEED", help="random weights in place of a checkpoint")
    parser.add_argument("--base", type=int, default=published.BASE, help="width of the network; 24 is the published one")
    parser.add_argument("--patches", type=int, default=2, help="patches to compare with PyTorch")
    arguments = parser.parse_args()
    if (arguments.checkpoint is None) == (arguments.random is None):
        parser.error("give either a checkpoint or --random SEED")
    try:
        if arguments.checkpoint:
            path, origin, version = arguments.checkpoint, arguments.checkpoint.name, "published"
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            origin, licence = f"{path.name}, SHA-256 {digest}", LICENCE
            weights = published.load(path, arguments.base)
        else:
            # by way of a file, so that loading is tried as well
            origin, version, licence = f"random weights, seed {arguments.random}", "random", "Apache-2.0"
            with tempfile.NamedTemporaryFile(suffix=".pth") as file:
                drawn = published.random(arguments.random, arguments.base)
                torch.save({f"module.{name}": value for name, value in drawn.items()}, file.name)
                weights = published.load(file.name, arguments.base)
        found = write(weights, arguments.base, arguments.out, origin, version, licence, arguments.patches)
    except (published.CheckpointError, OSError) as error:
        sys.exit(f"convert: {error}")
    print(f"{arguments.out}: largest difference to PyTorch: position {found[0]:.1e}, features {found[1]:.1e}")


if __name__ == "__main__":
    main()
