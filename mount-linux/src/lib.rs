//! mount-linux
