//! A bounded protobuf cursor over a message in place.
