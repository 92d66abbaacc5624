//! mount-windows
