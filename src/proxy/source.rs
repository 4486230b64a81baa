//! The body of an upstream's answer, as far as it was not read yet.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::timeout;

/// The body of an upstream's answer, of which the beginning may have been read already.
#[derive(Debug)]
pub(super) struct Source {
    read: VecDeque<Bytes>,
    rest: Option<Incoming>,
    /// How it broke while it was read: hyper's body tells that once, and then looks as if it had ended.
    broken: Option<hyper::Error>,
}

impl From<Incoming> for Source {
    fn from(body: Incoming) -> Self {
        Self { read: VecDeque::new(), rest: Some(body), broken: None }
    }
}

impl Source {
    /// The next piece, for who judges the answer.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match poll_fn(|cx| self.poll(cx)).await? {
                // Trailers belong to the connection that they came on.
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Waits until the first byte is here; none where there will be none.
    pub(super) async fn fill(&mut self) -> Option<Result<(), hyper::Error>> {
        loop {
            match self.next().await? {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.put_back(vec![data]);
                    return Some(Ok(()));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Whether its first byte is this one, white space aside. Waits for it no longer than `within`.
    pub(super) async fn begins_with(&mut self, first: u8, within: Duration) -> bool {
        let here = matches!(timeout(within, self.fill()).await, Ok(Some(Ok(()))));
        here && self.read.front().is_some_and(|data| data.trim_ascii_start().first() == Some(&first))
    }

    /// Gives back what was read, for the client.
    pub(super) fn put_back(&mut self, read: Vec<Bytes>) {
        for data in read.into_iter().rev() {
            self.read.push_front(data);
        }
    }

    /// Breaks after what was read, as it did when it was read.
    pub(super) fn breaks(&mut self, error: hyper::Error) {
        self.broken = Some(error);
        self.rest = None;
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(data) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match &mut self.rest {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    pub(super) fn is_end(&self) -> bool {
        self.read.is_empty() && self.broken.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if self.broken.is_some() {
            return SizeHint::default();
        }
        let read: u64 = self.read.iter().map(|data| data.len() as u64).sum();
        match self.rest.as_ref().map(Body::size_hint) {
            None => SizeHint::with_exact(read),
            Some(rest) => rest.exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(read + rest)),
        }
    }
}
