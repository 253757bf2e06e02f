//! What we answer: [`SERVICES`] is the table that negotiation and dispatch read.
