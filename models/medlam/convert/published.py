"""The published MedLAM network: its layers, the layout of its checkpoint, and what it computes, unsimplified.

A U-Net of five levels over 64 x 64 x 64 patches of 3 mm voxels. Every convolution is followed by an instance norm
without weights and a ReLU. `base` is 24 in the published network; smaller ones are for tests.
"""
import torch
import torch.nn.functional as F

PATCH = 64
BASE = 24
# Name, channels in, channels out, in units of `base`; conv0_1 takes the one channel of the scan.
CONVS = (
    ("conv0_1", 0, 2), ("conv0_2", 2, 2), ("conv1_1", 2, 2), ("conv1_2", 2, 2), ("conv2_1", 2, 2), ("conv2_2", 2, 4),
    ("conv3_1", 4, 4), ("conv3_2", 4, 8), ("conv4_1", 8, 8), ("conv4_2", 8, 16), ("conv5_1", 24, 8), ("conv5_2", 8, 8),
    ("conv6_1", 12, 4), ("conv6_2", 4, 4), ("conv7_1", 6, 4), ("conv7_2", 4, 4), ("conv8_1", 6, 4), ("conv8_2", 4, 4),
)
LEVELS = 5
# Shorter feature vectors are not made length 1; usual lengths are about 7.
LEAST = 0.1


class CheckpointError(Exception):
    """The file is not the published network; the text names the first difference."""


def conv_key(name):
    return f"{name}.model.conv1_1.Conv"


def layout(base=BASE):
    """Name to shape of every tensor of the checkpoint, in the order of the network."""
    shapes = {}
    for name, taken, given in CONVS:
        shapes[f"{conv_key(name)}.weight"] = (given * base, taken * base or 1, 3, 3, 3)
        shapes[f"{conv_key(name)}.bias"] = (given * base,)
    shapes["classification.0.weight"], shapes["classification.0.bias"] = (3, 4 * base, 1, 1, 1), (3,)
    bottleneck = 16 * base * (PATCH >> (LEVELS - 1)) ** 3
    for name, taken, given in (("fc1", bottleneck, 8 * base), ("fc2", 8 * base, 4 * base), ("fc3", 4 * base, 3)):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (given, taken), (given,)
    return shapes


def load(path, base=BASE):
    """The weights of a `.pth` by their names without `module.`, as 32 bit floats; nothing in the file is executed."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own text advises to load it without the safeguard
        raise CheckpointError(f"{path} cannot be read as a checkpoint of plain tensors ({type(error).__name__})") from error
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]  # a training checkpoint wraps the weights
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path} holds a {type(stored).__name__}, not a dictionary of tensors")
    stored = {str(name).removeprefix("module."): value for name, value in stored.items()}
    for name, shape in layout(base).items():
        value = stored.get(name)
        if not torch.is_tensor(value):
            raise CheckpointError(f"{path} lacks the tensor {name}; is this the localiser (medlam.pth)?")
        if tuple(value.shape) != shape:
            raise CheckpointError(f"{path}: {name} has shape {tuple(value.shape)}, the published network has {shape}")
        if not torch.is_floating_point(value) or not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds what is not finite floating point")
    extra = sorted(set(stored) - set(layout(base)))
    if extra:
        raise CheckpointError(f"{path} holds {extra[0]}, which the published network has not")
    return {name: stored[name].float() for name in layout(base)}


def random(seed, base=BASE):
    """Weights of the published layout with the spread PyTorch starts from: for tests, they find nothing."""
    generator = torch.Generator().manual_seed(seed)
    shapes = layout(base)

    def draw(name, shape):
        fan = torch.Size(shapes[name.replace(".bias", ".weight")][1:]).numel()
        return (2 * torch.rand(shape, generator=generator) - 1) / fan**0.5

    return {name: draw(name, shape) for name, shape in shapes.items()}


def conv(weights, name, x):
    key = conv_key(name)
    x = F.conv3d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], padding=1)
    return F.relu(F.instance_norm(x, eps=1e-5))


def encode(weights, x):
    """The output of every level of the way down; the last is the bottleneck."""
    levels = []
    for level in range(LEVELS):
        x = F.max_pool3d(x, 2) if level else x
        x = conv(weights, f"conv{level}_2", conv(weights, f"conv{level}_1", x))
        levels.append(x)
    return levels


def forward(weights, x, full=True):
    """What the published network says of patches [n, 1, 64, 64, 64]: the position p [n, 3] (z, y, x) and the features
    at 12, 6 and 3 mm, raw. Without `full` the 3 mm features, which cost three quarters of the time, are left out."""
    *skips, x = encode(weights, x)
    p = x.flatten(1)
    for name in ("fc1", "fc2", "fc3"):
        p = F.linear(p, weights[f"{name}.weight"], weights[f"{name}.bias"])
    features = []
    for level in range(5, 9 if full else 8):
        up = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
        x = torch.cat([up, skips[8 - level]], 1)
        x = conv(weights, f"conv{level}_2", conv(weights, f"conv{level}_1", x))
        features.append(x)
    return p, features[1:]


def unit(features):
    """Feature vectors of length 1. Near nothing (96 channels are never all there) stays near nothing: rounding is not to
    be blown up."""
    return features / features.norm(dim=1, keepdim=True).clamp_min(LEAST)
