//! Tensors out of a PyTorch `.pth` checkpoint, without executing anything in it.
