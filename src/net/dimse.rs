//! Typed DIMSE commands (PS3.7 section 9 and annex E).
