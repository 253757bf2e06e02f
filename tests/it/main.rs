//! Promises to the outside, one file each.

mod support;

mod assembly;
mod real_series;
