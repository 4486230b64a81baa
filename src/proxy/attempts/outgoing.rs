//! A client's request, and how Tidegate writes it for an upstream.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Uri, header::CONTENT_LENGTH};

use crate::{
    config,
    domain::{
        endpoint::Resource,
        origin::{Owner, Reference},
    },
    protocol::body::{Edit, SegmentedBody, SegmentedHttpBody, json_string},
    proxy::{answer::drain::ClientPresence, placement::destination::BodyCuts, request::receive::RequestedModel},
    upstream::{
        Credential,
        headers::{self, RequestFacts},
    },
};

/// The client's request, without the candidate that will serve it.
pub(in crate::proxy) struct OutgoingRequest<'a> {
    pub(in crate::proxy) resource: Resource<'a>,
    pub(in crate::proxy) query: Option<&'a str>,
    pub(in crate::proxy) headers: &'a HeaderMap,
    pub(in crate::proxy) body: &'a SegmentedBody,
    /// The cuts in the body. No cut overlaps the name of the model.
    pub(in crate::proxy) cuts: &'a BodyCuts,
    /// The model that the body names.
    pub(in crate::proxy) model: Option<&'a RequestedModel>,
    /// The edit that makes a chat stream report its usage, if needed.
    pub(in crate::proxy) usage_edit: Option<Edit>,
    /// The owner of the state that the answer creates.
    pub(in crate::proxy) owner: Owner,
    /// References of the request that are not known to belong to the owner. An answer that repeats one does not make the owner
    /// its owner.
    pub(in crate::proxy) unowned: &'a Arc<[Reference]>,
    /// The account that issued the turn state in the headers, if known.
    pub(in crate::proxy) turn_issuer: Option<u64>,
    /// Set where the request may outlive its client.
    pub(in crate::proxy) presence: Option<&'a ClientPresence>,
}

impl OutgoingRequest<'_> {
    /// Returns the request as it is sent upstream.
    pub(in crate::proxy) fn request(
        &self,
        uri: Uri,
        model: Option<&str>,
        cuts: &[Edit],
        upstream: &config::Upstream,
        credential: Option<&Credential>,
    ) -> Request<SegmentedHttpBody> {
        let mut request = Request::new(self.body(model, cuts));
        let method = self.resource.endpoint.method();
        let has_body = !self.body.is_empty();
        let facts = RequestFacts { has_body, owner: self.owner, turn_issuer: self.turn_issuer };
        *request.headers_mut() = headers::for_upstream(self.headers, facts, upstream, credential);
        if method == Method::POST && !has_body {
            // hyper sends no length for an empty body, but some servers want a POST to declare its length.
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request
    }

    /// Returns the body with the name `model`, without `cuts`, and with the edit for usage. A body that needs no edit stays
    /// unchanged.
    fn body(&self, model: Option<&str>, cuts: &[Edit]) -> SegmentedHttpBody {
        let renamed = match (self.model, model) {
            (Some(asked), Some(model)) if *asked.name != *model => {
                Some(Edit { range: asked.range.clone(), with: json_string(model) })
            }
            _ => None,
        };
        let others = || cuts.iter().chain(&self.usage_edit);
        let body = match (renamed, others().next()) {
            (None, None) => self.body.body(),
            (Some(edit), None) => self.body.edited(&[edit]).body(),
            (renamed, Some(_)) => {
                let mut edits: Vec<Edit> = others().cloned().chain(renamed).collect();
                edits.sort_by_key(|edit| edit.range.start);
                self.body.edited(&edits).body()
            }
        };
        match self.presence {
            None => body,
            Some(presence) => body.setting_when_taken(presence.sent()),
        }
    }
}
