//! backup-writer
