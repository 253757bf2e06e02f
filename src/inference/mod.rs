//! ONNX Runtime: the library, the models and the one thread that may run each.

pub mod runtime;
pub mod onnx;
pub mod model;
pub mod pth;
mod library;
mod provider;
