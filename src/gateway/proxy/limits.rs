//! Sizes that several files of the request path rely on.

/// Bytes of one request body that a client may send before the proxy has looked at them: the
/// initial HTTP/2 window of each stream.
pub(crate) const STREAM_WINDOW: usize = 256 * 1024;

/// About the size of the buffer that a piece of a body was read into. A smaller piece keeps the
/// whole buffer alive, so a piece that stays is copied, or counted with this size.
pub(crate) const READ_BUFFER: usize = 16 * 1024;
