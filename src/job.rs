//! The life of a job as one pure function.
