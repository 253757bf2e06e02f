//! Accepting and reading an association: negotiation, time-outs, limits, message assembly.
