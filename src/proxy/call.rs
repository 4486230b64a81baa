//! The request of a client, and how it is written for an upstream.

use http::{HeaderMap, HeaderValue, Method, Request, Uri, header::CONTENT_LENGTH};

use super::{place::BodyCuts, read_on::ClientPresence, receive::RequestedModel};
use crate::{
    config,
    domain::{endpoint::Resource, origin::Owner},
    protocol::body::{Edit, Rope, RopeBody, json_string},
    upstream::{
        Credential,
        headers::{self, RequestFacts},
    },
};

/// What the client wants, apart from who shall do it.
pub(super) struct Call<'a> {
    pub(super) resource: Resource<'a>,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Rope,
    /// What of it stays here, nowhere where the model stands.
    pub(super) cuts: &'a BodyCuts,
    /// The model that the body names.
    pub(super) model: Option<&'a RequestedModel>,
    /// What has the stream of a chat tell its tokens, where it has to.
    pub(super) telling_usage: Option<Edit>,
    /// Whose is what comes of it.
    pub(super) owner: Owner,
    /// The account that issued the turn state among the headers, if that is known.
    pub(super) turn_issuer: Option<u64>,
    /// Where the call may outlive its client.
    pub(super) presence: Option<&'a ClientPresence>,
}

impl Call<'_> {
    /// The request as it is sent to an upstream.
    pub(super) fn request(
        &self,
        uri: Uri,
        model: Option<&str>,
        cuts: &[Edit],
        upstream: &config::Upstream,
        credential: Option<&Credential>,
    ) -> Request<RopeBody> {
        let mut request = Request::new(self.body(model, cuts));
        let method = self.resource.endpoint.method();
        let has_body = !self.body.is_empty();
        let facts = RequestFacts { has_body, owner: self.owner, turn_issuer: self.turn_issuer };
        *request.headers_mut() = headers::up(self.headers, facts, upstream, credential);
        if method == Method::POST && !has_body {
            // hyper says nothing of a body that is not there, and some servers want a POST to tell its length.
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request
    }

    /// The body that asks for `model`, without `cuts`, with its tokens told; as it came where it is so already.
    fn body(&self, model: Option<&str>, cuts: &[Edit]) -> RopeBody {
        let renamed = match (self.model, model) {
            (Some(asked), Some(model)) if *asked.name != *model => {
                Some(Edit { range: asked.range.clone(), with: json_string(model) })
            }
            _ => None,
        };
        let others = || cuts.iter().chain(&self.telling_usage);
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
            Some(presence) => body.telling(presence.sent()),
        }
    }
}
