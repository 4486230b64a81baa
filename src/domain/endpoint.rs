//! Table of the endpoints that Tidegate relays, and the ids in the path of a request.

use http::Method;

use super::origin::ReferenceKind;

/// A group of API endpoints, such as all below `/responses`. The setting `surface` lists the groups that an upstream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surface {
    /// `/responses` and all paths below.
    Responses,
    /// `/conversations` and all paths below.
    Conversations,
    /// `/chat/completions`.
    Chat,
    /// `/completions`.
    Completions,
    /// `/embeddings`.
    Embeddings,
    /// `/moderations`.
    Moderations,
    /// `/images/generations`.
    Images,
    /// `/audio/speech`.
    Audio,
}

impl Surface {
    /// All surfaces (groups of API endpoints).
    pub const ALL: [Self; 8] = [
        Self::Responses,
        Self::Conversations,
        Self::Chat,
        Self::Completions,
        Self::Embeddings,
        Self::Moderations,
        Self::Images,
        Self::Audio,
    ];

    /// The fixed name of a surface (a group of API endpoints), as in the setting `surface`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Responses => "responses",
            Self::Conversations => "conversations",
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Moderations => "moderations",
            Self::Images => "images",
            Self::Audio => "audio",
        }
    }

    /// The surface (group of API endpoints) with this name, as in the setting `surface`. None for an unknown name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|surface| surface.name() == name)
    }
}

/// Which body the requests to an endpoint have: JSON with a model, JSON without a model, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBodyKind {
    /// One JSON object whose top-level `model` chooses the route.
    Model,
    /// One JSON object without a model, or no body.
    Json,
    /// No body. Tidegate neither reads a body that a client sends all the same, nor sends that body upstream.
    Nothing,
}

/// Format of the answers of an endpoint: a response, a completion, vectors, another JSON object, or media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerShape {
    /// A response, as one JSON object or as an event stream.
    Response,
    /// A completion or a chat completion, as one JSON object or as an event stream that ends with `[DONE]`.
    Completion,
    /// JSON with `usage` and without text that a model wrote: embeddings, moderations.
    Vectors,
    /// JSON without `usage`.
    Object,
    /// Images or audio: their length does not show how many tokens they cost.
    Media,
}

/// One operation of the API that Tidegate relays, with its method and path, such as `POST /responses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /responses`.
    CreateResponse,
    /// `POST /responses/input_tokens`.
    CountInputTokens,
    /// `POST /responses/compact`.
    CompactResponse,
    /// `GET /responses/{id}`.
    RetrieveResponse,
    /// `DELETE /responses/{id}`.
    DeleteResponse,
    /// `POST /responses/{id}/cancel`.
    CancelResponse,
    /// `GET /responses/{id}/input_items`.
    ListInputItems,
    /// `POST /conversations`.
    CreateConversation,
    /// `GET /conversations/{id}`.
    RetrieveConversation,
    /// `POST /conversations/{id}`.
    UpdateConversation,
    /// `DELETE /conversations/{id}`.
    DeleteConversation,
    /// `POST /conversations/{id}/items`.
    CreateItems,
    /// `GET /conversations/{id}/items`.
    ListItems,
    /// `GET /conversations/{id}/items/{id}`.
    RetrieveItem,
    /// `DELETE /conversations/{id}/items/{id}`.
    DeleteItem,
    /// `POST /chat/completions`.
    CreateChatCompletion,
    /// `POST /completions`.
    CreateCompletion,
    /// `POST /embeddings`.
    CreateEmbedding,
    /// `POST /moderations`.
    CreateModeration,
    /// `POST /images/generations`.
    GenerateImage,
    /// `POST /audio/speech`.
    CreateSpeech,
}

/// One row of the table: name, method, path, request body, answer format, surface.
struct Facts(&'static str, Method, &'static str, RequestBodyKind, AnswerShape, Surface);

impl Endpoint {
    /// All endpoints of the API that Tidegate relays.
    pub const ALL: [Self; 21] = [
        Self::CreateResponse,
        Self::CountInputTokens,
        Self::CompactResponse,
        Self::RetrieveResponse,
        Self::DeleteResponse,
        Self::CancelResponse,
        Self::ListInputItems,
        Self::CreateConversation,
        Self::RetrieveConversation,
        Self::UpdateConversation,
        Self::DeleteConversation,
        Self::CreateItems,
        Self::ListItems,
        Self::RetrieveItem,
        Self::DeleteItem,
        Self::CreateChatCompletion,
        Self::CreateCompletion,
        Self::CreateEmbedding,
        Self::CreateModeration,
        Self::GenerateImage,
        Self::CreateSpeech,
    ];

    /// The table. The names are those of the SDKs. They are fixed, because the ledger stores them. A part of a path in braces is an id.
    #[rustfmt::skip]
    fn facts(self) -> Facts {
        use RequestBodyKind::{Json, Model, Nothing};
        use AnswerShape::{Completion, Media, Object, Response, Vectors};
        use Surface::{Audio, Chat, Completions, Conversations, Embeddings, Images, Moderations, Responses};
        const GET: Method = Method::GET;
        const POST: Method = Method::POST;
        const DELETE: Method = Method::DELETE;
        match self {
            Self::CreateResponse => Facts("responses.create", POST, "/responses", Model, Response, Responses),
            Self::CountInputTokens => Facts("responses.input_tokens", POST, "/responses/input_tokens", Model, Object, Responses),
            Self::CompactResponse => Facts("responses.compact", POST, "/responses/compact", Model, Response, Responses),
            Self::RetrieveResponse => Facts("responses.retrieve", GET, "/responses/{id}", Nothing, Response, Responses),
            Self::DeleteResponse => Facts("responses.delete", DELETE, "/responses/{id}", Nothing, Object, Responses),
            Self::CancelResponse => Facts("responses.cancel", POST, "/responses/{id}/cancel", Nothing, Response, Responses),
            Self::ListInputItems => Facts("responses.input_items", GET, "/responses/{id}/input_items", Nothing, Object, Responses),
            Self::CreateConversation => Facts("conversations.create", POST, "/conversations", Json, Object, Conversations),
            Self::RetrieveConversation => Facts("conversations.retrieve", GET, "/conversations/{id}", Nothing, Object, Conversations),
            Self::UpdateConversation => Facts("conversations.update", POST, "/conversations/{id}", Json, Object, Conversations),
            Self::DeleteConversation => Facts("conversations.delete", DELETE, "/conversations/{id}", Nothing, Object, Conversations),
            Self::CreateItems => Facts("conversations.items.create", POST, "/conversations/{id}/items", Json, Object, Conversations),
            Self::ListItems => Facts("conversations.items.list", GET, "/conversations/{id}/items", Nothing, Object, Conversations),
            Self::RetrieveItem => Facts("conversations.items.retrieve", GET, "/conversations/{id}/items/{item}", Nothing, Object, Conversations),
            Self::DeleteItem => Facts("conversations.items.delete", DELETE, "/conversations/{id}/items/{item}", Nothing, Object, Conversations),
            Self::CreateChatCompletion => Facts("chat.completions.create", POST, "/chat/completions", Model, Completion, Chat),
            Self::CreateCompletion => Facts("completions.create", POST, "/completions", Model, Completion, Completions),
            Self::CreateEmbedding => Facts("embeddings.create", POST, "/embeddings", Model, Vectors, Embeddings),
            Self::CreateModeration => Facts("moderations.create", POST, "/moderations", Model, Vectors, Moderations),
            Self::GenerateImage => Facts("images.generate", POST, "/images/generations", Model, Media, Images),
            Self::CreateSpeech => Facts("audio.speech.create", POST, "/audio/speech", Model, Media, Audio),
        }
    }

    /// The fixed name of an API endpoint, as the SDKs call the operation.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP method of an API endpoint.
    pub fn method(self) -> Method {
        self.facts().1
    }

    /// The path of an API endpoint without `/v1`, such as `/responses/{id}`. A part in braces is an id.
    pub fn path(self) -> &'static str {
        self.facts().2
    }

    /// The kind of body that a request to this API endpoint has.
    pub fn request_body(self) -> RequestBodyKind {
        self.facts().3
    }

    /// The format of a successful answer of this API endpoint.
    pub fn shape(self) -> AnswerShape {
        self.facts().4
    }

    /// The surface (group of API endpoints) that this endpoint belongs to.
    pub fn surface(self) -> Surface {
        self.facts().5
    }

    /// Whether requests to this API endpoint cost nothing and use no tokens, because no model works for them.
    pub fn is_free(self) -> bool {
        self.request_body() != RequestBodyKind::Model || self == Self::CountInputTokens
    }

    /// Whether answers of this API endpoint have output tokens, which are billed. Embeddings and moderations have none.
    pub fn has_output(self) -> bool {
        self.shape() != AnswerShape::Vectors
    }

    /// Whether a request to this API endpoint may be repeated without harm: whether its method is `GET`.
    pub fn is_safe(self) -> bool {
        self.method() == Method::GET
    }

    /// Whether the path of this API endpoint contains ids of objects, such as `/responses/{id}`. Each object belongs to one
    /// account.
    pub fn has_ids(self) -> bool {
        self.path().contains('{')
    }

    /// Matches the raw path of a request, with or without `/v1`, with this endpoint, and returns the ids in the path. None where
    /// the path does not match this endpoint, or an id in the path is not valid.
    pub fn resource(self, path: &str) -> Option<Resource<'_>> {
        let path = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path);
        let (mut expected, mut given) = (self.path().split('/'), path.split('/'));
        let mut resource = Resource { endpoint: self, ids: [""; 2] };
        let mut ids = resource.ids.iter_mut();
        loop {
            match (expected.next(), given.next()) {
                (None, None) => return Some(resource),
                (Some(part), Some(id)) if part.starts_with('{') => *ids.next().filter(|_| is_id(id))? = id,
                (expected, given) if expected == given => {}
                _ => return None,
            }
        }
    }
}

/// Whether a text is an id that may be sent upstream as a part of a path. Only characters that every server reads alike are
/// allowed. Ids of providers have under 100 bytes.
fn is_id(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b':' | b'-');
    (1..=256).contains(&text.len()) && text.bytes().all(is_allowed) && text != "." && text != ".."
}

/// An API endpoint together with the ids from the path of a request, unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource<'a> {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The ids of the path. An entry without an id is empty.
    ids: [&'a str; 2],
}

impl<'a> Resource<'a> {
    /// The ids in the path of a request, in the order of the path.
    pub fn ids(&self) -> impl Iterator<Item = &'a str> {
        self.ids.into_iter().filter(|id| !id.is_empty())
    }

    /// The ids in the path of a request with the kind of object that each id names, in the order of the path.
    pub fn names(&self) -> impl Iterator<Item = (ReferenceKind, &'a str)> {
        let first = if self.endpoint.surface() == Surface::Responses {
            ReferenceKind::Response
        } else {
            ReferenceKind::Conversation
        };
        [first, ReferenceKind::Item].into_iter().zip(self.ids())
    }

    /// Appends the path for the upstream to `into`. The path is built from the table of endpoints and the ids, never copied from
    /// the client's request.
    pub fn write(&self, into: &mut String) {
        let mut ids = self.ids();
        for part in self.endpoint.path().split('/').skip(1) {
            into.push('/');
            into.push_str(if part.starts_with('{') { ids.next().unwrap_or_default() } else { part });
        }
    }
}

impl From<Endpoint> for Resource<'static> {
    /// For an endpoint whose path has no ids.
    fn from(endpoint: Endpoint) -> Self {
        Self { endpoint, ids: [""; 2] }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_endpoint_has_a_unique_name_and_a_unique_method_and_path() {
        let names: HashSet<_> = Endpoint::ALL.iter().map(|endpoint| endpoint.name()).collect();
        let routes: HashSet<_> = Endpoint::ALL.iter().map(|endpoint| (endpoint.method(), endpoint.path())).collect();
        assert_eq!((names.len(), routes.len()), (Endpoint::ALL.len(), Endpoint::ALL.len()));
        for (index, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, index);
            // Only POST has a body. An endpoint without a model names an object in its path, or creates a conversation.
            assert!(
                endpoint.request_body() == RequestBodyKind::Nothing || endpoint.method() == Method::POST,
                "{endpoint:?}"
            );
            assert_eq!(
                endpoint.request_body() == RequestBodyKind::Model,
                !endpoint.has_ids() && endpoint.name() != "conversations.create"
            );
            assert!(endpoint.path().matches('{').count() <= 2);
        }
        for (index, surface) in Surface::ALL.into_iter().enumerate() {
            assert_eq!(surface as usize, index);
        }
    }

    #[test]
    fn a_path_with_valid_ids_is_rebuilt_unchanged() {
        let longest = "x".repeat(256);
        for id in ["resp_1", "A-Za-z0-9._~:-", "...", ".a", "a:b", &longest] {
            for endpoint in Endpoint::ALL {
                let path = endpoint.path().replace("{id}", id).replace("{item}", "msg_2");
                for base in ["", "/v1"] {
                    let requested = format!("{base}{path}");
                    let resource = endpoint.resource(&requested).unwrap_or_else(|| panic!("{requested}"));
                    let mut sent = "/base".to_owned();
                    resource.write(&mut sent);
                    assert_eq!(sent, format!("/base{path}"));
                    let ids: Vec<_> = resource.ids().collect();
                    let kinds: Vec<_> = resource.names().map(|(kind, _)| kind.name()).collect();
                    let parts: Vec<_> = path.split('/').collect();
                    let expected = [1, 3].map(|part| parts.get(part).map(|part| part.trim_end_matches('s')));
                    assert!(kinds.iter().map(|kind| Some(*kind)).eq(expected.into_iter().take(kinds.len())), "{path}");
                    assert_eq!(ids, &[id, "msg_2"][..endpoint.path().matches('{').count()]);
                }
            }
        }
    }

    #[test]
    fn texts_that_servers_may_read_differently_are_not_valid_ids() {
        let too_long = "x".repeat(257);
        let bad = [
            "", ".", "..", "%2e%2e", "resp%5F1", "a%00", "a%2Fb", "a b", "a;b", "a?b", "a#b", "a\\b", "é", "a\u{0}",
            "a+b", "a@b", "a,b", "a=b", "a&b", "a*b", "{id}", &too_long,
        ];
        for id in bad {
            for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| endpoint.has_ids()) {
                let path = endpoint.path().replace("{id}", id).replace("{item}", "msg_2");
                assert_eq!(endpoint.resource(&path), None, "{path}");
            }
            let item = format!("/v1/conversations/conv_1/items/{id}");
            assert_eq!(Endpoint::RetrieveItem.resource(&item), None, "{item}");
        }
        for path in
            ["/v1", "/v1/", "/v1responses/a", "/v1/v1/responses/a", "responses/a", "/responses/a/", "/responses/a/b"]
        {
            assert_eq!(Endpoint::RetrieveResponse.resource(path), None, "{path}");
        }
    }
}
