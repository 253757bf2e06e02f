//! One series in, its result objects out: reads as the clinical story.
