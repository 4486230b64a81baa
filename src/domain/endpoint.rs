//! What the API has: every operation that is relayed, as one table, and the ids that stand in its path.

use http::Method;

use super::origin::Kind;

/// A part of the API. Upstreams say which of them they have (`surface`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surface {
    /// `/responses` and all below it.
    Responses,
    /// `/conversations` and all below it.
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
    /// All of them.
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

    /// Its fixed name: that of the setting.
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

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|surface| surface.name() == name)
    }
}

/// What the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBodyKind {
    /// One JSON object, whose top-level `model` says where it goes.
    Model,
    /// One JSON object without a model, or nothing.
    Json,
    /// Nothing: what comes all the same is not looked at and does not go up.
    Nothing,
}

/// What the body of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerShape {
    /// A response, whole or as an event stream.
    Response,
    /// A completion of the older kinds: whole, or as a stream that ends with `[DONE]`.
    Completion,
    /// Something else in JSON with `usage`, and without text of a model's own.
    Vectors,
    /// JSON without `usage`.
    Object,
    /// Pictures or sound: how long they are says nothing of their tokens.
    Media,
}

/// One operation of the API.
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

/// One row of the table: name, method, path, what goes up, what comes down, and the part that it belongs to.
struct Facts(&'static str, Method, &'static str, RequestBodyKind, AnswerShape, Surface);

impl Endpoint {
    /// All of them.
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

    /// The table. Names are fixed, as the ledger keeps them: those of the SDKs. A part of a path in braces is an id.
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

    /// Its fixed name, as the SDKs call it.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// Its method.
    pub fn method(self) -> Method {
        self.facts().1
    }

    /// Its path, as routes are written; an id is a part in braces.
    pub fn path(self) -> &'static str {
        self.facts().2
    }

    /// What goes up.
    pub fn carries(self) -> RequestBodyKind {
        self.facts().3
    }

    /// What comes down.
    pub fn shape(self) -> AnswerShape {
        self.facts().4
    }

    /// The part of the API that it belongs to.
    pub fn surface(self) -> Surface {
        self.facts().5
    }

    /// Whether no model works for it: it takes no tokens, and costs nothing.
    pub fn is_free(self) -> bool {
        self.carries() != RequestBodyKind::Model || self == Self::CountInputTokens
    }

    /// Whether a model's output comes of it, in tokens that are paid for.
    pub fn has_output(self) -> bool {
        self.shape() != AnswerShape::Vectors
    }

    /// Whether it can be done again without harm.
    pub fn is_safe(self) -> bool {
        self.method() == Method::GET
    }

    /// Whether it is about something that lives in one account.
    pub fn has_ids(self) -> bool {
        self.path().contains('{')
    }

    /// What the raw path of a request names, with or without `/v1`; none where it is not this endpoint's, or an id in
    /// it is none.
    pub fn resource(self, path: &str) -> Option<Resource<'_>> {
        let path = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path);
        let (mut wanted, mut given) = (self.path().split('/'), path.split('/'));
        let mut resource = Resource { endpoint: self, ids: [""; 2] };
        let mut ids = resource.ids.iter_mut();
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return Some(resource),
                (Some(part), Some(id)) if part.starts_with('{') => *ids.next().filter(|_| is_id(id))? = id,
                (wanted, given) if wanted == given => {}
                _ => return None,
            }
        }
    }
}

/// An id that may go up as a part of a path: nothing that any server could take for something else. Ids of providers
/// have under 100 bytes.
fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b':' | b'-');
    (1..=256).contains(&text.len()) && text.bytes().all(plain) && text != "." && text != ".."
}

/// An endpoint with the ids that stand in its path, as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource<'a> {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// As many as its path has; empty beyond.
    ids: [&'a str; 2],
}

impl<'a> Resource<'a> {
    /// The ids in the order of the path.
    pub fn ids(&self) -> impl Iterator<Item = &'a str> {
        self.ids.into_iter().filter(|id| !id.is_empty())
    }

    /// What the ids name, in the order of the path.
    pub fn names(&self) -> impl Iterator<Item = (Kind, &'a str)> {
        let first = if self.endpoint.surface() == Surface::Responses { Kind::Response } else { Kind::Conversation };
        [first, Kind::Item].into_iter().zip(self.ids())
    }

    /// Adds its path at the end of `into`: made of the table and the ids, never the client's own.
    pub fn write(&self, into: &mut String) {
        let mut ids = self.ids();
        for part in self.endpoint.path().split('/').skip(1) {
            into.push('/');
            into.push_str(if part.starts_with('{') { ids.next().unwrap_or_default() } else { part });
        }
    }
}

impl From<Endpoint> for Resource<'static> {
    /// Of an endpoint without ids.
    fn from(endpoint: Endpoint) -> Self {
        Self { endpoint, ids: [""; 2] }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_and_a_place_of_its_own() {
        let names: HashSet<_> = Endpoint::ALL.iter().map(|endpoint| endpoint.name()).collect();
        let places: HashSet<_> = Endpoint::ALL.iter().map(|endpoint| (endpoint.method(), endpoint.path())).collect();
        assert_eq!((names.len(), places.len()), (Endpoint::ALL.len(), Endpoint::ALL.len()));
        for (place, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, place);
            // What has a body has a method that takes one, and only ids make a path that has none.
            assert!(
                endpoint.carries() == RequestBodyKind::Nothing || endpoint.method() == Method::POST,
                "{endpoint:?}"
            );
            assert_eq!(
                endpoint.carries() == RequestBodyKind::Model,
                !endpoint.has_ids() && endpoint.name() != "conversations.create"
            );
            assert!(endpoint.path().matches('{').count() <= 2);
        }
        for (place, surface) in Surface::ALL.into_iter().enumerate() {
            assert_eq!(surface as usize, place);
        }
    }

    #[test]
    fn a_path_goes_up_as_it_came_or_not_at_all() {
        let longest = "x".repeat(256);
        for id in ["resp_1", "A-Za-z0-9._~:-", "...", ".a", "a:b", &longest] {
            for endpoint in Endpoint::ALL {
                let path = endpoint.path().replace("{id}", id).replace("{item}", "msg_2");
                for base in ["", "/v1"] {
                    let asked = format!("{base}{path}");
                    let resource = endpoint.resource(&asked).unwrap_or_else(|| panic!("{asked}"));
                    let mut up = "/base".to_owned();
                    resource.write(&mut up);
                    assert_eq!(up, format!("/base{path}"));
                    let ids: Vec<_> = resource.ids().collect();
                    let kinds: Vec<_> = resource.names().map(|(kind, _)| kind.name()).collect();
                    let parts: Vec<_> = path.split('/').collect();
                    let wanted = [1, 3].map(|part| parts.get(part).map(|part| part.trim_end_matches('s')));
                    assert!(kinds.iter().map(|kind| Some(*kind)).eq(wanted.into_iter().take(kinds.len())), "{path}");
                    assert_eq!(ids, &[id, "msg_2"][..endpoint.path().matches('{').count()]);
                }
            }
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_id() {
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
