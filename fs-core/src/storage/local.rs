//! Objects in a directory.
