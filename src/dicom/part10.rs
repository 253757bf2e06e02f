//! Part 10 files (PS3.10 section 7): preamble, file meta group, data set bytes as they came.
