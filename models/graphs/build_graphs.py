#!/usr/bin/env python3
"""Writes the encoder and decoder graphs of LiteMedSAM and MedSAM ViT-B as ONNX, without weights.

    python3 build_graphs.py            writes ../lite_medsam/*.onnx and ../medsam_vit_b/*.onnx
    python3 build_graphs.py --check    exits 1 when a committed graph is not what this script writes

Every weight is an external initialiser that bears its name in the PyTorch checkpoint; medlsamd reads the checkpoint and
hands the tensors over by name when it makes the session. So no torch is needed, here or there, and no copy of the weights.
Shapes are static but for the batch, and there is no Shape or Expand node: CUDA would run those on the processor.

Encoder  image[batch,1,S,S]                                         -> embedding[batch,256,64,64]
Decoder  embedding[slices,256,64,64], boxes[boxes,4], index[boxes]  -> logits[boxes,1,256,256], iou[boxes,1]
Boxes are (x0, y0, x1, y1) in pixels of the S x S image; index says which embedding a box is on.
"""

import math
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OPSET = 17  # the first with LayerNormalization
DIM = 256  # channels of the embedding
GRID = 64  # its height and width


class Graph:
    """Collects nodes; each method adds one operation and returns the name of its output."""

    def __init__(self):
        self.nodes, self.constants, self.weights, self.known = [], [], {}, {}

    def op(self, kind, *inputs, outputs=1, **attributes):
        stem = f"{kind}_{len(self.nodes)}"
        names = [stem] if outputs == 1 else [f"{stem}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=stem, **attributes))
        return names[0] if outputs == 1 else names

    def const(self, value, dtype=np.float32):
        value = np.asarray(value, dtype)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.known:
            self.known[key] = f"const_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(value, self.known[key]))
        return self.known[key]

    def weight(self, name, *shape):
        if self.weights.setdefault(name, shape) != shape:
            raise ValueError(f"{name} is wanted as {shape} and {self.weights[name]}")
        return name

    # Shorthands.
    def reshape(self, x, *shape):
        return self.op("Reshape", x, self.const(shape, np.int64))

    def transpose(self, x, *perm):
        return self.op("Transpose", x, perm=list(perm))

    def slice(self, x, axis, start, end):
        return self.op("Slice", x, *(self.const([v], np.int64) for v in (start, end, axis)))

    def add(self, a, b):
        return self.op("Add", a, b)

    def scale(self, x, factor):
        return self.op("Mul", x, self.const(factor))

    def gelu(self, x):
        erf = self.op("Erf", self.op("Div", x, self.const(math.sqrt(2.0))))
        return self.scale(self.op("Mul", x, self.add(erf, self.const(1.0))), 0.5)

    def linear(self, x, name, n_in, n_out):
        """torch.nn.Linear: its weight is [out, in]."""
        product = self.op("MatMul", x, self.transpose(self.weight(f"{name}.weight", n_out, n_in), 1, 0))
        return self.add(product, self.weight(f"{name}.bias", n_out))

    def layer_norm(self, x, name, dim, eps):
        weights = (self.weight(f"{name}.weight", dim), self.weight(f"{name}.bias", dim))
        return self.op("LayerNormalization", x, *weights, axis=-1, epsilon=eps)

    def layer_norm_2d(self, x, name, dim):
        """SAM's LayerNorm2d: over the channels of NCHW."""
        x = self.layer_norm(self.transpose(x, 0, 2, 3, 1), name, dim, 1e-6)
        return self.transpose(x, 0, 3, 1, 2)

    def softmax_attention(self, q, k, v, scale, bias=None):
        """softmax(q kT * scale + bias) v over the last two axes."""
        axes = list(range(4))
        scores = self.scale(self.op("MatMul", q, self.transpose(k, *axes[:-2], 3, 2)), scale)
        if bias is not None:
            scores = self.add(scores, bias)
        return self.op("MatMul", self.op("Softmax", scores, axis=-1), v)

    def windows(self, x, side, window, dim):
        """[batch, side*side, dim] -> [batch*windows, window*window, dim], padded with zeros at the bottom and right."""
        padded = -(-side // window) * window
        x = self.reshape(x, -1, side, side, dim)
        if padded != side:
            pads = [0, 0, 0, 0, 0, padded - side, padded - side, 0]
            x = self.op("Pad", x, self.const(pads, np.int64))
        n = padded // window
        x = self.transpose(self.reshape(x, -1, n, window, n, window, dim), 0, 1, 3, 2, 4, 5)
        return self.reshape(x, -1, window * window, dim)

    def unwindows(self, x, side, window, dim):
        padded = -(-side // window) * window
        n = padded // window
        x = self.transpose(self.reshape(x, -1, n, n, window, window, dim), 0, 1, 3, 2, 4, 5)
        x = self.reshape(x, -1, padded, padded, dim)
        if padded != side:
            x = self.slice(self.slice(x, 1, 0, side), 2, 0, side)
        return self.reshape(x, -1, side * side, dim)

    def neck(self, x, name, dim):
        """SAM's neck on NCHW: 1x1 convolution, norm, 3x3 convolution, norm."""
        x = self.op("Conv", x, self.weight(f"{name}.0.weight", DIM, dim, 1, 1))
        x = self.layer_norm_2d(x, f"{name}.1", DIM)
        x = self.op("Conv", x, self.weight(f"{name}.2.weight", DIM, DIM, 3, 3), pads=[1] * 4)
        return self.layer_norm_2d(x, f"{name}.3", DIM)

    def model(self, name, inputs, outputs, renamed):
        for produced, wanted in renamed.items():
            self.nodes.append(helper.make_node("Identity", [produced], [wanted], name=wanted))
        initialisers = self.constants + [external(n, s) for n, s in self.weights.items()]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, initialisers)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="medlsamd")


def external(name, shape):
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    # A location is required by the format; the tensor is given by name and no such file is ever opened.
    tensor.external_data.add(key="location", value="checkpoint")
    return tensor


def value(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, list(shape))


def grey(g, name, out, kernel):
    """An RGB convolution applied to three equal channels is one with the sum of its weights."""
    return g.op("ReduceSum", g.weight(name, out, 3, kernel, kernel), g.const([1], np.int64), keepdims=1)


# LiteMedSAM's image encoder: TinyViT without the strides of its stem.


def conv_bn(g, x, name, n_in, n_out, kernel=1, stride=1, groups=1, weight=None):
    weight = weight or g.weight(f"{name}.c.weight", n_out, n_in // groups, kernel, kernel)
    x = g.op("Conv", x, weight, group=groups, strides=[stride] * 2, pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2)
    fields = ("weight", "bias", "running_mean", "running_var")
    return g.op("BatchNormalization", x, *(g.weight(f"{name}.bn.{f}", n_out) for f in fields), epsilon=1e-5)


def mb_conv(g, x, name, dim):
    hidden = 4 * dim
    y = g.gelu(conv_bn(g, x, f"{name}.conv1", dim, hidden))
    y = g.gelu(conv_bn(g, y, f"{name}.conv2", hidden, hidden, 3, groups=hidden))
    return g.gelu(g.add(conv_bn(g, y, f"{name}.conv3", hidden, dim), x))


def merge(g, x, name, dim, out, stride):
    x = g.gelu(conv_bn(g, x, f"{name}.conv1", dim, out))
    x = g.gelu(conv_bn(g, x, f"{name}.conv2", out, out, 3, stride, groups=out))
    return conv_bn(g, x, f"{name}.conv3", out, out)


def offset_bias(g, name, heads, window):
    """The learned bias of each |dy|, |dx|, spread to [heads, window*window, window*window]."""
    distance = np.abs(np.arange(window)[:, None] - np.arange(window)[None, :])
    bias = g.reshape(g.weight(name, heads, window * window), heads, window, window)
    bias = g.op("Gather", bias, g.const(distance, np.int64), axis=1)
    bias = g.op("Gather", bias, g.const(distance, np.int64), axis=3)  # heads, y1, y2, x1, x2
    return g.reshape(g.transpose(bias, 0, 1, 3, 2, 4), heads, window * window, window * window)


def tiny_vit_attention(g, x, name, dim, heads, window):
    n, d = window * window, dim // heads
    qkv = g.linear(g.layer_norm(x, f"{name}.norm", dim, 1e-5), f"{name}.qkv", dim, 3 * dim)
    qkv = g.transpose(g.reshape(qkv, -1, n, heads, 3 * d), 0, 2, 1, 3)
    q, k, v = g.op("Split", qkv, g.const([d] * 3, np.int64), outputs=3, axis=3)
    y = g.softmax_attention(q, k, v, d**-0.5, offset_bias(g, f"{name}.attention_biases", heads, window))
    return g.linear(g.reshape(g.transpose(y, 0, 2, 1, 3), -1, n, dim), f"{name}.proj", dim, dim)


def tiny_vit_block(g, x, name, side, dim, heads, window):
    y = tiny_vit_attention(g, g.windows(x, side, window, dim), f"{name}.attn", dim, heads, window)
    x = g.add(x, g.unwindows(y, side, window, dim))
    x = g.reshape(g.transpose(x, 0, 2, 1), -1, dim, side, side)
    x = conv_bn(g, x, f"{name}.local_conv", dim, dim, 3, groups=dim)
    x = g.transpose(g.reshape(x, -1, dim, side * side), 0, 2, 1)
    y = g.layer_norm(x, f"{name}.mlp.norm", dim, 1e-5)
    y = g.linear(g.gelu(g.linear(y, f"{name}.mlp.fc1", dim, 4 * dim)), f"{name}.mlp.fc2", 4 * dim, dim)
    return g.add(x, y)


def lite_encoder():
    g, root = Graph(), "image_encoder"
    dims, depths, heads, sizes = [64, 128, 160, 320], [2, 2, 6, 2], [2, 4, 5, 10], [7, 7, 14, 7]
    stem = f"{root}.patch_embed.seq"
    x = conv_bn(g, "image", f"{stem}.0", 1, 32, weight=grey(g, f"{stem}.0.c.weight", 32, 1))
    x = conv_bn(g, g.gelu(x), f"{stem}.2", 32, 64)
    for block in range(depths[0]):
        x = mb_conv(g, x, f"{root}.layers.0.blocks.{block}", dims[0])
    side = 256
    for layer in range(1, 4):
        stride = 1 if layer == 3 else 2
        x = merge(g, x, f"{root}.layers.{layer - 1}.downsample", dims[layer - 1], dims[layer], stride)
        side, dim = side // stride, dims[layer]
        x = g.transpose(g.reshape(x, -1, dim, side * side), 0, 2, 1)
        for block in range(depths[layer]):
            name = f"{root}.layers.{layer}.blocks.{block}"
            x = tiny_vit_block(g, x, name, side, dim, heads[layer], sizes[layer])
        x = g.reshape(g.transpose(x, 0, 2, 1), -1, dim, side, side)
    return encoder_model(g, g.neck(x, f"{root}.neck", dims[-1]), 256)


# MedSAM's image encoder: SAM ViT-B.


def relative(g, name, side, head):
    """Relative position vectors, [query, head, key] for a row or column of `side`."""
    table = np.arange(side)[:, None] - np.arange(side)[None, :] + side - 1
    rows = g.op("Gather", g.weight(name, 2 * side - 1, head), g.const(table, np.int32), axis=0)
    return g.transpose(rows, 0, 2, 1)


def vit_attention(g, x, name, dim, heads, side):
    n, d = side * side, dim // heads
    qkv = g.linear(x, f"{name}.qkv", dim, 3 * dim)
    qkv = g.transpose(g.reshape(qkv, -1, n, 3, heads, d), 2, 0, 3, 1, 4)
    q, k, v = (g.reshape(part, -1, heads, n, d) for part in g.op("Split", qkv, g.const([1] * 3, np.int64), outputs=3, axis=0))
    rows = g.reshape(q, -1, side, side, d)  # (batch*heads), y, x
    by_y = g.op("MatMul", rows, relative(g, f"{name}.rel_pos_h", side, d))
    by_x = g.op("MatMul", g.transpose(rows, 0, 2, 1, 3), relative(g, f"{name}.rel_pos_w", side, d))
    by_y = g.reshape(by_y, -1, heads, n, side, 1)
    by_x = g.reshape(g.transpose(by_x, 0, 2, 1, 3), -1, heads, n, 1, side)
    bias = g.reshape(g.add(by_y, by_x), -1, heads, n, n)
    y = g.softmax_attention(q, k, v, d**-0.5, bias)
    return g.linear(g.reshape(g.transpose(y, 0, 2, 1, 3), -1, n, dim), f"{name}.proj", dim, dim)


def vit_b_encoder():
    g, root = Graph(), "image_encoder"
    dim, heads, window, wide = 768, 12, 14, (2, 5, 8, 11)
    patch = f"{root}.patch_embed.proj"
    x = g.op("Conv", "image", grey(g, f"{patch}.weight", dim, 16), g.weight(f"{patch}.bias", dim), strides=[16] * 2)
    x = g.add(g.transpose(x, 0, 2, 3, 1), g.weight(f"{root}.pos_embed", 1, GRID, GRID, dim))
    x = g.reshape(x, -1, GRID * GRID, dim)
    for block in range(12):
        name = f"{root}.blocks.{block}"
        y = g.layer_norm(x, f"{name}.norm1", dim, 1e-6)
        if block in wide:
            y = vit_attention(g, y, f"{name}.attn", dim, heads, GRID)
        else:
            y = vit_attention(g, g.windows(y, GRID, window, dim), f"{name}.attn", dim, heads, window)
            y = g.unwindows(y, GRID, window, dim)
        x = g.add(x, y)
        y = g.layer_norm(x, f"{name}.norm2", dim, 1e-6)
        y = g.linear(g.gelu(g.linear(y, f"{name}.mlp.lin1", dim, 4 * dim)), f"{name}.mlp.lin2", 4 * dim, dim)
        x = g.add(x, y)
    x = g.transpose(g.reshape(x, -1, GRID, GRID, dim), 0, 3, 1, 2)
    return encoder_model(g, g.neck(x, f"{root}.neck", dim), 1024)


def encoder_model(g, embedding, size):
    image = value("image", TensorProto.FLOAT, "batch", 1, size, size)
    output = value("embedding", TensorProto.FLOAT, "batch", DIM, GRID, GRID)
    return g.model("encoder", [image], [output], {embedding: "embedding"})


# SAM's prompt encoder (boxes only) and mask decoder, the same in both.


def fourier(g, x):
    """Positional encoding of coordinates already multiplied with the Gaussian matrix."""
    x = g.scale(x, 2 * math.pi)
    return g.op("Concat", g.op("Sin", x), g.op("Cos", x), axis=-1)


def box_tokens(g, boxes, gaussian, size):
    corners = g.add(g.reshape(boxes, -1, 2, 2), g.const(0.5))
    unit = g.add(g.scale(corners, 2.0 / size), g.const(-1.0))
    kinds = [g.weight(f"prompt_encoder.point_embeddings.{i}.weight", 1, DIM) for i in (2, 3)]
    return g.add(fourier(g, g.op("MatMul", unit, gaussian)), g.op("Concat", *kinds, axis=0))


def image_positions(g, gaussian):
    """[GRID*GRID, DIM]; depends on weights alone, so the runtime folds it into a constant."""
    unit = g.const(((np.arange(GRID) + 0.5) / GRID * 2 - 1)[:, None])
    x = g.op("Mul", unit, g.slice(gaussian, 0, 0, 1))
    y = g.op("Mul", unit, g.slice(gaussian, 0, 1, 2))
    both = g.add(g.reshape(x, 1, GRID, DIM // 2), g.reshape(y, GRID, 1, DIM // 2))
    return g.reshape(fourier(g, both), GRID * GRID, DIM)


class Attention:
    """SAM's decoder attention, in steps, as the image's projections can be shared by the boxes of a slice."""

    HEADS = 8

    def __init__(self, g, name, inner):
        self.g, self.name, self.inner = g, name, inner

    def project(self, x, which, tokens):
        g, d = self.g, self.inner // self.HEADS
        x = g.linear(x, f"{self.name}.{which}_proj", DIM, self.inner)
        return g.transpose(g.reshape(x, -1, tokens, self.HEADS, d), 0, 2, 1, 3)

    def join(self, q, k, v, tokens):
        g, d = self.g, self.inner // self.HEADS
        y = g.softmax_attention(q, k, v, d**-0.5)
        y = g.reshape(g.transpose(y, 0, 2, 1, 3), -1, tokens, self.inner)
        return g.linear(y, f"{self.name}.out_proj", self.inner, DIM)


def two_way_transformer(g, tokens, embedding, positions, index):
    """tokens[boxes,7,DIM], embedding[slices,GRID*GRID,DIM] -> both, per box."""
    root, n, m = "mask_decoder.transformer", 7, GRID * GRID
    norm = lambda x, name: g.layer_norm(x, f"{root}.{name}", DIM, 1e-5)
    queries, keys = tokens, embedding
    for layer in range(2):
        name = f"layers.{layer}"
        own = Attention(g, f"{root}.{name}.self_attn", DIM)
        placed = queries if layer == 0 else g.add(queries, tokens)
        y = own.join(own.project(placed, "q", n), own.project(placed, "k", n), own.project(queries, "v", n), n)
        queries = norm(y if layer == 0 else g.add(queries, y), f"{name}.norm1")

        into = Attention(g, f"{root}.{name}.cross_attn_token_to_image", DIM // 2)
        back = Attention(g, f"{root}.{name}.cross_attn_image_to_token", DIM // 2)
        at = g.add(keys, positions)
        of_image = [into.project(at, "k", m), into.project(keys, "v", m), back.project(at, "q", m), keys]
        if layer == 0:  # until here the image knows nothing of the boxes: computed once per slice, then dealt out
            of_image = [g.op("Gather", x, index, axis=0) for x in of_image]
        k, v, image_q, keys = of_image
        q = into.project(g.add(queries, tokens), "q", n)
        queries = norm(g.add(queries, into.join(q, k, v, n)), f"{name}.norm2")

        y = g.op("Relu", g.linear(queries, f"{root}.{name}.mlp.lin1", DIM, 2048))
        queries = norm(g.add(queries, g.linear(y, f"{root}.{name}.mlp.lin2", 2048, DIM)), f"{name}.norm3")

        k, v = back.project(g.add(queries, tokens), "k", n), back.project(queries, "v", n)
        keys = norm(g.add(keys, back.join(image_q, k, v, m)), f"{name}.norm4")
    last = Attention(g, f"{root}.final_attn_token_to_image", DIM // 2)
    q, k = last.project(g.add(queries, tokens), "q", n), last.project(g.add(keys, positions), "k", m)
    queries = g.add(queries, last.join(q, k, last.project(keys, "v", m), n))
    return norm(queries, "norm_final_attn"), keys


def doubled(g, x, name, n_in, n_out):
    """A transposed convolution of kernel and stride 2, on channels-last: four dot products per pixel, kept on axes of their own."""
    weight = g.transpose(g.weight(f"{name}.weight", n_in, n_out, 2, 2), 0, 2, 3, 1)
    return g.op("MatMul", x, g.reshape(weight, n_in, 4 * n_out)), g.weight(f"{name}.bias", n_out)


def mlp(g, x, name, dims):
    for layer, (n_in, n_out) in enumerate(zip(dims, dims[1:])):
        x = g.linear(x, f"{name}.layers.{layer}", n_in, n_out)
        x = g.op("Relu", x) if layer < len(dims) - 2 else x
    return x


def decoder(size):
    g, root = Graph(), "mask_decoder"
    gaussian = g.weight("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 2, DIM // 2)
    boxes = box_tokens(g, "boxes", gaussian, size)
    learned = g.op("Concat", g.weight(f"{root}.iou_token.weight", 1, DIM), g.weight(f"{root}.mask_tokens.weight", 4, DIM), axis=0)
    # Adding to a zero of the boxes' batch stands in for Expand.
    learned = g.add(g.scale(g.slice(boxes, 1, 0, 1), 0.0), learned)
    tokens = g.op("Concat", learned, boxes, axis=1)
    image = g.transpose(g.reshape("embedding", -1, DIM, GRID * GRID), 0, 2, 1)
    image = g.add(image, g.weight("prompt_encoder.no_mask_embed.weight", 1, DIM))
    queries, keys = two_way_transformer(g, tokens, image, image_positions(g, gaussian), "index")

    x, bias = doubled(g, keys, f"{root}.output_upscaling.0", DIM, 64)
    x = g.add(g.reshape(x, -1, GRID * GRID, 4, 64), bias)
    x = g.gelu(g.layer_norm(x, f"{root}.output_upscaling.1", 64, 1e-6))
    x, bias = doubled(g, x, f"{root}.output_upscaling.3", 64, 32)
    x = g.gelu(g.add(g.reshape(x, -1, GRID * GRID * 16, 32), bias))
    token = lambda i: g.reshape(g.slice(queries, 1, i, i + 1), -1, DIM)
    hyper = mlp(g, token(1), f"{root}.output_hypernetworks_mlps.0", [DIM, DIM, DIM, 32])
    x = g.op("MatMul", x, g.reshape(hyper, -1, 32, 1))
    x = g.transpose(g.reshape(x, -1, GRID, GRID, 2, 2, 2, 2), 0, 1, 3, 5, 2, 4, 6)  # y, dy, ddy, x, dx, ddx
    logits = g.reshape(x, -1, 1, 4 * GRID, 4 * GRID)
    iou = g.slice(mlp(g, token(0), f"{root}.iou_prediction_head", [DIM, DIM, DIM, 4]), 1, 0, 1)

    inputs = [
        value("embedding", TensorProto.FLOAT, "slices", DIM, GRID, GRID),
        value("boxes", TensorProto.FLOAT, "boxes", 4),
        value("index", TensorProto.INT64, "boxes"),
    ]
    outputs = [value("logits", TensorProto.FLOAT, "boxes", 1, 256, 256), value("iou", TensorProto.FLOAT, "boxes", 1)]
    return g.model("decoder", inputs, outputs, {logits: "logits", iou: "iou"})


GRAPHS = {
    "lite_medsam/encoder.onnx": lite_encoder,
    "lite_medsam/decoder.onnx": lambda: decoder(256),
    "medsam_vit_b/encoder.onnx": vit_b_encoder,
    "medsam_vit_b/decoder.onnx": lambda: decoder(1024),
}


def main():
    root, stale = Path(__file__).resolve().parent.parent, []
    for name, build in GRAPHS.items():
        graph = build().SerializeToString(deterministic=True)
        if "--check" in sys.argv[1:]:
            stale += [name] * ((root / name).read_bytes() != graph)
            continue
        (root / name).write_bytes(graph)
        print(f"{name}: {len(graph)} bytes")
    if stale:
        sys.exit(f"not what this script writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
