//! Sizes that several files of the request path use.

/// Initial HTTP/2 window of each stream of a client: bytes of a request body that the client may
/// send before the proxy reads them.
pub(crate) const STREAM_WINDOW: usize = 256 * 1024;

/// Approximate size of a read buffer. A piece of a body is a slice of the buffer that it was read
/// into and keeps the whole buffer alive. So a small piece that is held is copied, or charged with
/// this size.
pub(crate) const READ_BUFFER: usize = 16 * 1024;
