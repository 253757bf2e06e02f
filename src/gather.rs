//! When a series is whole.
