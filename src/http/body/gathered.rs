//! A body whose small pieces are gathered, so that what reads it does so as seldom as for large ones.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use bytes::BytesMut;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, Sleep, sleep};

/// Pieces of this many bytes are large.
const LARGE: usize = 16 << 10;

/// How long bytes may be held back for more to come.
const HELD_FOR: Duration = Duration::from_millis(10);

pub struct Gathered {
    pieces: BodyDataStream,
    held: BytesMut,
    time: Pin<Box<Sleep>>,
    failure: Option<axum::Error>,
    ended: bool,
}

impl Gathered {
    pub fn new(body: Body) -> Self {
        Self {
            pieces: body.into_data_stream(),
            held: BytesMut::new(),
            time: Box::pin(sleep(HELD_FOR)),
            failure: None,
            ended: false,
        }
    }

    fn release(&mut self) -> Poll<Option<Result<Bytes, axum::Error>>> {
        Poll::Ready(Some(Ok(self.held.split().freeze())))
    }
}

impl Stream for Gathered {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended {
            match self.pieces.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(piece))) if self.held.is_empty() && piece.len() >= LARGE => {
                    return Poll::Ready(Some(Ok(piece)));
                }
                Poll::Ready(Some(Ok(piece))) => {
                    if self.held.is_empty() {
                        self.time.as_mut().reset(Instant::now() + HELD_FOR);
                    }
                    self.held.extend_from_slice(&piece);
                    if self.held.len() >= LARGE {
                        return self.release();
                    }
                }
                Poll::Ready(end) => {
                    self.ended = true;
                    self.failure = end.and_then(Result::err);
                }
                Poll::Pending if self.held.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.time.as_mut().poll(context));
                    return self.release();
                }
            }
        }
        if self.held.is_empty() { Poll::Ready(self.failure.take().map(Err)) } else { self.release() }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, stream};

    use super::*;

    fn gathered(pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Gathered {
        Gathered::new(Body::from_stream(pieces))
    }

    fn of(length: usize) -> std::io::Result<Bytes> {
        Ok(Bytes::from(vec![b'x'; length]))
    }

    #[tokio::test]
    async fn small_pieces_become_large_ones_and_large_ones_stay() {
        let pieces = (0..1000).map(|_| of(100)).chain([of(LARGE), of(5)]);
        let lengths: Vec<usize> = gathered(stream::iter(pieces)).map(|piece| piece.unwrap().len()).collect().await;
        assert_eq!(lengths.iter().sum::<usize>(), 100_000 + LARGE + 5);
        assert!(lengths.len() <= 9, "{lengths:?}");
        let large = gathered(stream::iter([of(LARGE), of(3 * LARGE)]));
        let lengths: Vec<usize> = large.map(|piece| piece.unwrap().len()).collect().await;
        assert_eq!(lengths, [LARGE, 3 * LARGE]);
    }

    #[tokio::test]
    async fn what_came_does_not_wait_long_and_comes_before_a_failure() {
        let mut body = gathered(stream::iter([of(3), of(4)]).chain(stream::pending()));
        assert!(body.next().now_or_never().is_none());
        assert_eq!(body.next().await.unwrap().unwrap().len(), 7);
        let mut body = gathered(stream::iter([of(3), Err(std::io::ErrorKind::BrokenPipe.into()), of(4)]));
        assert_eq!(body.next().await.unwrap().unwrap().len(), 3);
        assert!(body.next().await.unwrap().is_err());
        assert!(body.next().await.is_none());
    }
}
