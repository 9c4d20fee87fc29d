//! `calico segment`: what it prints, writes and ends with.
