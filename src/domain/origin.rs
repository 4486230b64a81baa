//! The origin of state that an answer left at a provider: the account that has the state, and the owner of the state.

use sha2::{Digest, Sha256};

use super::random;

/// Kind of object that a reference names: response, conversation, file and so on. Stores keep the numbers for 30 days: never use
/// the number of one kind for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReferenceKind {
    /// A response: `resp_…`.
    Response = 1,
    /// A conversation: `conv_…`.
    Conversation = 2,
    /// An item of an answer: `msg_…`, `rs_…`, `fc_…`.
    Item = 3,
    /// A file.
    File = 4,
    /// A vector store.
    VectorStore = 5,
    /// A container of the code interpreter.
    Container = 6,
    /// A prompt template.
    Prompt = 7,
    /// `encrypted_content`: not an id, but bound to its account like an id.
    Encrypted = 8,
    /// A skill: `skill_…`.
    Skill = 9,
    /// A value of the header `x-codex-turn-state`, which is bound to its account like `encrypted_content`.
    TurnState = 10,
    /// An object whose id does not show the kind of the object, such as a UUID.
    Opaque = 11,
}

impl ReferenceKind {
    /// The fixed name of the kind of object that a reference names, such as `response`: log field `pinned`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Conversation => "conversation",
            Self::Item => "item",
            Self::File => "file",
            Self::VectorStore => "vector_store",
            Self::Container => "container",
            Self::Prompt => "prompt",
            Self::Encrypted => "encrypted",
            Self::Skill => "skill",
            Self::TurnState => "turn_state",
            Self::Opaque => "object",
        }
    }
}

/// The hash of an id that names state at a provider: the first 128 bits of SHA-256 over kind and text of the id. A megabyte of
/// `encrypted_content` therefore takes no more space than an id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference(pub [u8; 16]);

impl Reference {
    /// Computes the reference (a hash) of an id whose text is in memory as a whole.
    pub fn new(kind: ReferenceKind, text: &[u8]) -> Self {
        let mut hash = ReferenceHash::new(kind);
        hash.update(text);
        hash.end()
    }

    /// A second reference for the same id, which stands for one further owner. Used when an account gives one id to several
    /// owners.
    pub fn for_owner(self, owner: Owner) -> Self {
        // No kind has this number, so that this is the hash of no text.
        let mut hash = ReferenceHash(Sha256::new_with_prefix([u8::MAX]));
        hash.update(&self.0);
        hash.update(&if owner.group == 0 { owner.key } else { owner.group }.to_be_bytes());
        hash.end()
    }
}

/// Shows the first four bytes: enough to tell two references apart in a failed test.
impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, second, third, fourth, ..] = self.0;
        write!(f, "{first:02x}{second:02x}{third:02x}{fourth:02x}…")
    }
}

/// Computes the [`Reference`] of an id whose text comes in pieces, without JSON escapes.
#[derive(Clone, Debug)]
pub struct ReferenceHash(Sha256);

impl ReferenceHash {
    /// Starts the hash of an id of this kind, before the first piece of its text.
    pub fn new(kind: ReferenceKind) -> Self {
        Self(Sha256::new_with_prefix([kind as u8]))
    }

    /// Adds the next piece of an id's text to the hash of the id.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Ends the hash of an id and returns the reference, when the text of the id is complete.
    pub fn end(self) -> Reference {
        let digest: [u8; 32] = self.0.finalize().into();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Reference(first)
    }
}

/// Owner of state at a provider: the client key that created the state, together with the group of that key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// A number computed from the name of the key.
    pub key: u64,
    /// A number computed from the name of the key's group; 0 = no group.
    pub group: u64,
}

impl Owner {
    /// The owner that stands for the key with this name in this group.
    pub fn new(key: &str, group: Option<&str>) -> Self {
        // `max(1)`: 0 means that the key has no group.
        Self {
            key: random::seed(&["key", key]),
            group: group.map_or(0, |group| random::seed(&["group", group]).max(1)),
        }
    }

    /// Whether `other` may use the state of this owner: both are the same key, or keys of one group.
    pub fn shares_with(self, other: Self) -> bool {
        self.key == other.key || (self.group != 0 && self.group == other.group)
    }
}

/// Where the state behind an id comes from: the account that has the state, and the owner who created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The account that has the state: `upstream::Credential::seat`, a number computed from the names of upstream and account.
    pub account: u64,
    /// The owner of the request whose answer created the state.
    pub owner: Owner,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_depends_on_kind_and_text_and_not_on_how_the_text_is_split() {
        let whole = Reference::new(ReferenceKind::Response, b"resp_1");
        let mut pieces = ReferenceHash::new(ReferenceKind::Response);
        pieces.update(b"resp");
        pieces.update(b"_1");
        assert_eq!(pieces.end(), whole);
        assert_ne!(Reference::new(ReferenceKind::Item, b"resp_1"), whole);
        assert_ne!(Reference::new(ReferenceKind::Response, b"resp_2"), whole);
    }

    #[test]
    fn only_keys_of_one_group_share_state() {
        let (a, b) = (Owner::new("a", Some("team")), Owner::new("b", Some("team")));
        assert!(a.shares_with(a) && a.shares_with(b));
        assert!(!Owner::new("a", None).shares_with(Owner::new("b", None)));
        assert!(Owner::new("a", None).shares_with(a), "the same key after it left its group");
        assert!(!Owner::new("b", Some("other")).shares_with(a));
    }
}
