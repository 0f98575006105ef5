//! Tests of the figures, the keys and the picture.
