//! A connection whose reader has to read: an answer that is not taken in time ends it.
//!
//! - The time counts from when the system takes no more of what is to be sent, to when it has taken all of it.
//! - A slow reader gets more time with each byte, at [`SLOWEST`]; one that reads a byte now and then does not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes a second that a reader takes at least.
const SLOWEST: u64 = 16 << 10;

pub(super) struct Timed<S> {
    stream: S,
    patience: Duration,
    /// Until when what waits to be sent must be taken.
    due: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, due: None }
    }

    fn taken(&mut self, bytes: usize) {
        if let Some(due) = &mut self.due {
            let more = Duration::from_micros(bytes as u64 * 1_000_000 / SLOWEST);
            let until = due.deadline() + more;
            due.as_mut().reset(until);
        }
    }

    fn waits(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let patience = self.patience;
        let due = self.due.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        ready!(due.as_mut().poll(context));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the answer was not read in time"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> Timed<S> {
    fn written(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.taken(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.waits(context).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Asked only once everything was taken.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.due = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn whoever_reads_nothing_or_next_to_nothing_is_cut_off_and_a_slow_reader_is_not() {
        // Bytes that the reader takes every hundredth of a second, and whether it gets the answer.
        for (piece, gets) in [(0, false), (1, false), (1_000, true), (100_000, true)] {
            let (sender, mut reader) = tokio::io::duplex(1_024);
            let mut sender = Timed::new(sender, Duration::from_millis(300));
            let reading = tokio::spawn(async move {
                if piece == 0 {
                    std::future::pending::<()>().await;
                }
                let mut piece = vec![0; piece];
                while reader.read(&mut piece).await.is_ok_and(|read| read > 0) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
            let sent = async {
                sender.write_all(&vec![0; 60_000]).await?;
                sender.flush().await
            };
            let sent = tokio::time::timeout(Duration::from_secs(60), sent).await.unwrap();
            assert_eq!(sent.is_ok(), gets, "{piece}: {sent:?}");
            reading.abort();
        }
    }
}
