//! Everything that needs a real etcd, in one binary. This list is its table of contents.

// --- the ground that the other tests stand on ---
mod etcd_itself;
