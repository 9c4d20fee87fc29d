//! HTTP/2 frames by hand (RFC 9113, 4.1; RFC 7541, 6.2.2).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The client's connection preface.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

const HEAD: usize = 9;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    assert_eq!(length[0], 0, "a payload length of 24 bits");
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block: every field is a literal without indexing, without Huffman coding.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541, 5.1).
fn integer(block: &mut Vec<u8>, value: usize) {
    let Some(mut rest) = value.checked_sub(127) else { return block.push(value as u8) };
    block.push(127);
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// A stream that passes everything through and replaces the block of the first HEADERS frame.
pub struct FirstBlock<S> {
    inner: S,
    /// The block to send, until it has been sent.
    block: Option<Vec<u8>>,
    /// Bytes from the client that are not a complete frame yet.
    unread: Vec<u8>,
    /// Bytes that wait to be written.
    unsent: Vec<u8>,
    preface_passed: bool,
}

impl<S> FirstBlock<S> {
    /// `inner`, with these fields in the first header block.
    pub fn replaced(inner: S, fields: &[(&[u8], &[u8])]) -> Self {
        Self {
            inner,
            block: Some(block(fields)),
            unread: Vec::new(),
            unsent: Vec::new(),
            preface_passed: false,
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        if !self.preface_passed && self.unread.len() >= PREFACE.len() {
            self.unsent.extend(self.unread.drain(..PREFACE.len()));
            self.preface_passed = true;
        }
        while self.preface_passed && self.unread.len() >= HEAD {
            let length =
                u32::from_be_bytes([0, self.unread[0], self.unread[1], self.unread[2]]) as usize;
            if self.unread.len() < HEAD + length {
                return;
            }
            let whole: Vec<u8> = self.unread.drain(..HEAD + length).collect();
            match self.block.take_if(|_| whole[3] == HEADERS) {
                None => self.unsent.extend(whole),
                Some(block) => {
                    let stream = u32::from_be_bytes([whole[5], whole[6], whole[7], whole[8]]);
                    self.unsent.extend(frame(
                        HEADERS,
                        whole[4] & END_STREAM | END_HEADERS,
                        stream,
                        &block,
                    ));
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> FirstBlock<S> {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(context, &self.unsent))?;
            self.unsent.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBlock<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(context))?;
        self.take_in(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBlock<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}
