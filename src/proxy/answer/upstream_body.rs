//! The part of an upstream's answer body that was not read yet.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
    response::Parts,
};
use http_body::{Body, SizeHint};
use tokio::time::timeout;

use crate::{
    protocol::{
        coding::{self, Coded},
        mask::{CodedBody, CredentialRepeated, MaskScope, MaskedBody},
    },
    proxy::error::ApiError,
    upstream::{
        AnswerBody, EchoWatch,
        headers::{self, Media},
    },
};

/// The body of an upstream's answer, whose beginning may have been read already. The credential is masked wherever it must not
/// appear.
#[derive(Debug)]
pub(in crate::proxy) struct UpstreamBody {
    read: VecDeque<Bytes>,
    rest: Option<AnswerBody>,
    masked: MaskedBody,
    /// Replaces `masked` where the body has a content coding.
    coded: Option<Box<CodedBody>>,
    /// Whether the first byte was seen.
    began: bool,
    echo: EchoWatch,
    /// The error that ended the reading. hyper's body reports an error once, and after that looks like a clean end.
    broken: Option<BodyError>,
}

/// Why the body of an upstream's answer cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The upstream's transfer broke.
    #[error("the connection to the upstream broke in the middle of an answer: {0}")]
    Transfer(#[from] hyper::Error),
    /// The answer repeats the credential in a content coding that Tidegate did not request. The credential cannot be masked
    /// there.
    #[error(
        "a compressed answer of the upstream repeats the credential of the request, so Tidegate stopped the answer"
    )]
    Echoed,
}

impl UpstreamBody {
    /// Creates the body of an answer with this head. Masks the credential of the request: in the values of headers, everywhere
    /// in an error answer, and in the errors of a success.
    pub(in crate::proxy) fn new(head: &mut Parts, body: AnswerBody, mut echo: EchoWatch) -> Self {
        echo.mask_headers(&mut head.headers);
        let media = Media::of(&head.headers);
        let coded = headers::coded(&head.headers);
        let scope = match (head.status.is_success(), media) {
            _ if echo.mask().is_none() => MaskScope::Nowhere,
            (false, _) if coded != Coded::Plain => return Self::withheld(head, echo),
            _ if coded == Coded::Unknown => MaskScope::Nowhere,
            (false, _) => MaskScope::Everywhere,
            (true, Media::EventStream) => MaskScope::errors(true),
            (true, Media::Json | Media::Plain) => MaskScope::errors(false),
            (true, Media::Html | Media::Text | Media::Other) => MaskScope::ByFirstByte,
        };
        let source = Self { rest: Some(body), ..Self::with(echo) };
        match coded {
            Coded::Once(coding) if !matches!(scope, MaskScope::Nowhere) => {
                Self { coded: Some(Box::new(CodedBody::new(Some(coding), scope))), ..source }
            }
            _ => Self { masked: MaskedBody::new(scope), ..source },
        }
    }

    /// Returns an empty body.
    fn with(echo: EchoWatch) -> Self {
        Self {
            read: VecDeque::new(),
            rest: None,
            masked: MaskedBody::new(MaskScope::Nowhere),
            coded: None,
            began: false,
            echo,
            broken: None,
        }
    }

    /// Replaces an error answer in an unrequested coding, which cannot be masked, with an error of Tidegate.
    fn withheld(head: &mut Parts, echo: EchoWatch) -> Self {
        head.headers.remove(CONTENT_ENCODING);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { read: VecDeque::from([ApiError::withheld().body()]), ..Self::with(echo) }
    }

    /// Masks the credential in a name from the answer, for the log and the ledger.
    pub(in crate::proxy) fn mask_name(&mut self, name: &mut Option<Box<str>>) {
        self.echo.mask_name(name);
    }

    /// Returns the next piece, for the code that judges the answer.
    pub(in crate::proxy) async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Whether the body has a content coding. A credential in such a body breaks the answer.
    pub(in crate::proxy) fn is_coded(&self) -> bool {
        self.coded.is_some()
    }

    /// Waits for the first byte. `None` = the body ended without a byte.
    pub(in crate::proxy) async fn fill(&mut self) -> Option<Result<(), BodyError>> {
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

    /// Whether the body breaks at its beginning because it repeats the credential in a content coding. Waits at most the time
    /// `within`.
    pub(in crate::proxy) async fn repeats_the_credential(&mut self, within: Duration) -> bool {
        match timeout(within, self.fill()).await {
            Ok(Some(Err(BodyError::Echoed))) => true,
            Ok(Some(Err(error))) => {
                self.fail_with(error);
                false
            }
            Err(_) | Ok(None | Some(Ok(()))) => false,
        }
    }

    /// Whether the first byte, after white space, is this one. Waits at most the time `within`.
    pub(in crate::proxy) async fn begins_with(&mut self, first: u8, within: Duration) -> bool {
        let here = matches!(timeout(within, self.fill()).await, Ok(Some(Ok(()))));
        here && self.read.front().is_some_and(|data| data.trim_ascii_start().first() == Some(&first))
    }

    /// Puts bytes back, so that the client gets them.
    pub(in crate::proxy) fn put_back(&mut self, read: Vec<Bytes>) {
        for data in read.into_iter().rev() {
            self.read.push_front(data);
        }
    }

    /// Makes the body fail with this error after the bytes that were read.
    pub(in crate::proxy) fn fail_with(&mut self, error: BodyError) {
        self.broken = Some(error);
        self.rest = None;
    }

    pub(in crate::proxy) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(data) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(data)));
        }
        loop {
            if let Some(error) = self.broken.take() {
                return Poll::Ready(Some(Err(error)));
            }
            let Some(body) = &mut self.rest else { return Poll::Ready(None) };
            let polled = ready!(body.poll_data(cx));
            let last = body.is_end_stream();
            let masked = match polled {
                Some(Ok(data)) => self.mask(data, last),
                Some(Err(error)) => {
                    self.fail_with(error.into());
                    self.mask(Bytes::new(), true)
                }
                None => {
                    self.rest = None;
                    self.mask(Bytes::new(), true)
                }
            };
            match masked {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(Some(Ok(data))),
                Err(CredentialRepeated) => {
                    self.echo.tell();
                    self.fail_with(BodyError::Echoed);
                }
            }
        }
    }

    fn mask(&mut self, data: Bytes, last: bool) -> Result<Bytes, CredentialRepeated> {
        let Some(mask) = self.echo.mask() else { return Ok(data) };
        if let Some(first) = data.first().filter(|_| !std::mem::replace(&mut self.began, true))
            && self.coded.is_none()
            && coding::may_be_coded(*first)
        {
            // The head declares no coding, but the first byte can begin a coded body.
            let scope = self.masked.take_scope();
            self.coded = Some(Box::new(CodedBody::new(None, scope)));
        }
        if let Some(coded) = &mut self.coded {
            return coded.pass(mask, data, last);
        }
        let (data, any) = self.masked.pass(mask, data, last);
        if any {
            self.echo.tell();
        }
        Ok(data)
    }

    /// Returns how many bytes wait for the next piece.
    fn held(&self) -> usize {
        self.masked.held() + self.coded.as_ref().map_or(0, |coded| coded.held())
    }

    pub(in crate::proxy) fn is_end(&self) -> bool {
        self.read.is_empty()
            && self.held() == 0
            && self.broken.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        if self.broken.is_some() {
            return SizeHint::default();
        }
        let read = self.read.iter().map(|data| data.len() as u64).sum::<u64>() + self.held() as u64;
        match self.rest.as_ref().map(Body::size_hint) {
            None => SizeHint::with_exact(read),
            Some(rest) => rest.exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(read + rest)),
        }
    }
}
