//! Drop folders.
