//! Which protocol a series belongs to.
