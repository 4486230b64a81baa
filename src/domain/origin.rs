//! Where state came from: what an answer left behind at a provider, under which account, and whose it is.

use sha2::{Digest, Sha256};

use super::chance;

/// What a reference names. The numbers are kept for 30 days in stores: a kind only ever gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
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
    /// `encrypted_content`: no id, but as bound to its account.
    Encrypted = 8,
    /// A skill: `skill_…`.
    Skill = 9,
    /// A value of the header `x-codex-turn-state`: bound to its account like `encrypted_content`.
    TurnState = 10,
    /// An object that somebody names by a text which does not tell its kind, as a UUID does not.
    Opaque = 11,
}

impl Kind {
    /// Its fixed name: log field `pinned`.
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

/// A reference as it is remembered: the first 128 bits of SHA-256 over its kind and its text, so that a megabyte of
/// `encrypted_content` costs no more than an id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference(pub [u8; 16]);

impl Reference {
    /// Of a text that is here as a whole.
    pub fn new(kind: Kind, text: &[u8]) -> Self {
        let mut hash = ReferenceHash::new(kind);
        hash.update(text);
        hash.end()
    }

    /// What is remembered of this one for an owner who got it after another owner had it.
    pub fn for_owner(self, owner: Owner) -> Self {
        // No kind has this number, so that this is the hash of no text.
        let mut hash = ReferenceHash(Sha256::new_with_prefix([u8::MAX]));
        hash.update(&self.0);
        hash.update(&if owner.group == 0 { owner.key } else { owner.group }.to_be_bytes());
        hash.end()
    }
}

/// Not all of it: enough to tell two apart in a failed test.
impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, second, third, fourth, ..] = self.0;
        write!(f, "{first:02x}{second:02x}{third:02x}{fourth:02x}…")
    }
}

/// Makes a [`Reference`] of a text that comes in pieces, unescaped.
#[derive(Clone, Debug)]
pub struct ReferenceHash(Sha256);

impl ReferenceHash {
    /// Of nothing yet.
    pub fn new(kind: Kind) -> Self {
        Self(Sha256::new_with_prefix([kind as u8]))
    }

    /// The next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The end of the text.
    pub fn end(self) -> Reference {
        let digest: [u8; 32] = self.0.finalize().into();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Reference(first)
    }
}

/// Whose state is: a key's, and that of all keys of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// A number that belongs to the name of the key.
    pub key: u64,
    /// One that belongs to the name of its group; 0 = none.
    pub group: u64,
}

impl Owner {
    /// The key of this name, in this group.
    pub fn new(key: &str, group: Option<&str>) -> Self {
        // Never 0, which says that there is none.
        Self {
            key: chance::seed(&["key", key]),
            group: group.map_or(0, |group| chance::seed(&["group", group]).max(1)),
        }
    }

    /// Whether `other` may use what this one made: the same key, or one of its group.
    pub fn shares_with(self, other: Self) -> bool {
        self.key == other.key || (self.group != 0 && self.group == other.group)
    }
}

/// What is remembered of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The account that it lives in: `upstream::Credential::seat`, a number that belongs to the names of upstream and account.
    pub account: u64,
    /// Who made it.
    pub owner: Owner,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_its_kind_and_its_text_however_it_comes() {
        let whole = Reference::new(Kind::Response, b"resp_1");
        let mut pieces = ReferenceHash::new(Kind::Response);
        pieces.update(b"resp");
        pieces.update(b"_1");
        assert_eq!(pieces.end(), whole);
        assert_ne!(Reference::new(Kind::Item, b"resp_1"), whole);
        assert_ne!(Reference::new(Kind::Response, b"resp_2"), whole);
    }

    #[test]
    fn keys_of_a_group_share_and_no_others() {
        let (a, b) = (Owner::new("a", Some("team")), Owner::new("b", Some("team")));
        assert!(a.shares_with(a) && a.shares_with(b));
        assert!(!Owner::new("a", None).shares_with(Owner::new("b", None)));
        assert!(Owner::new("a", None).shares_with(a), "the key of that name, whatever became of its group");
        assert!(!Owner::new("b", Some("other")).shares_with(a));
    }
}
