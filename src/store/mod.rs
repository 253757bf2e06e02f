//! SQLite: the only SQL of the crate. Synchronous; called from blocking context.
