//! Items of a request: which of them an upstream has to look up by their `id`.
//!
//! Codex gives ids of its own to every item that it sends, which no provider ever saw, and SDKs send back the items that they received
//! (docs/wire.md, section 4). Where an item brings content, an upstream reads nothing by its `id`. Three cases:
//!
//! | item | an upstream |
//! | --- | --- |
//! | `item_reference`; an item with nothing but `id`, `type`, `role`, and `status` unless it is the record of a call, if its type is one below or ends in `_call` or `_output` | looks it up |
//! | an item with other members, but not those that its type is made of; one where these are there, but empty (not of reasoning and pictures, which providers look up by nothing but their ids); `context_compaction` and other types, which steer and hold nothing (`compaction_trigger`) | may look it up |
//! | an item with one of the members that its type is made of | takes it as it is |
//!
//! | `type` | made of one of |
//! | --- | --- |
//! | none | `role` and `content`, both: an upstream may take it for a reference otherwise |
//! | `message`, `agent_message` | `content` |
//! | `reasoning` | `content`, `encrypted_content` |
//! | `compaction`, `compaction_summary`, `context_compaction` | `encrypted_content` |
//! | `function_call`, `mcp_call`, `mcp_approval_request` | `name`, `arguments` |
//! | `custom_tool_call` | `name`, `input` |
//! | `…_output` | `output`, `call_id`, `tools` |
//! | `local_shell_call`, `shell_call`, `computer_call`, `web_search_call` | `action`, `actions` |
//! | `apply_patch_call` | `operation` |
//! | `file_search_call` | `queries`, `results` |
//! | `code_interpreter_call` | `code`, `outputs` |
//! | `image_generation_call` | `result` |
//! | `mcp_list_tools` | `tools`, `server_label` |
//! | `mcp_approval_response` | `approval_request_id` |
//! | `additional_tools` | `tools` |
//! | `tool_search_call` | `arguments`, `call_id` |
//! | any other | any member |
//!
//! A member counts where a string stands in it that is not empty, a number or a boolean, however deep: `null`, `""` and `[]` are no content.

use super::finder::Level;

// The members of an item that count, as bits.
/// `id` and `type`: no content.
pub(super) const LABEL: u32 = 1;
pub(super) const ROLE: u32 = 1 << 1;
pub(super) const STATUS: u32 = 1 << 2;
pub(super) const CONTENT: u32 = 1 << 3;
pub(super) const ENCRYPTED: u32 = 1 << 4;
pub(super) const NAME: u32 = 1 << 5;
pub(super) const ARGUMENTS: u32 = 1 << 6;
pub(super) const INPUT: u32 = 1 << 7;
pub(super) const OUTPUT: u32 = 1 << 8;
pub(super) const CALL: u32 = 1 << 9;
pub(super) const TOOLS: u32 = 1 << 10;
pub(super) const ACTION: u32 = 1 << 11;
pub(super) const OPERATION: u32 = 1 << 12;
pub(super) const FOUND: u32 = 1 << 13;
pub(super) const CODE: u32 = 1 << 14;
pub(super) const RESULT: u32 = 1 << 15;
pub(super) const SERVER: u32 = 1 << 16;
pub(super) const APPROVAL: u32 = 1 << 17;
/// Any other member.
const OTHER: u32 = 1 << 18;

/// The members that say nothing of what an item holds.
const LABELS: u32 = LABEL | ROLE | STATUS;

/// What items of each type are made of: one of these members.
const MADE_OF: [(&str, u32); 22] = [
    ("message", CONTENT),
    ("agent_message", CONTENT),
    ("reasoning", CONTENT | ENCRYPTED),
    ("compaction", ENCRYPTED),
    ("compaction_summary", ENCRYPTED),
    ("context_compaction", ENCRYPTED),
    ("function_call", NAME | ARGUMENTS),
    ("mcp_call", NAME | ARGUMENTS),
    ("mcp_approval_request", NAME | ARGUMENTS),
    ("custom_tool_call", NAME | INPUT),
    ("local_shell_call", ACTION),
    ("shell_call", ACTION),
    ("computer_call", ACTION),
    ("web_search_call", ACTION),
    ("apply_patch_call", OPERATION),
    ("file_search_call", FOUND),
    ("code_interpreter_call", CODE),
    ("image_generation_call", RESULT),
    ("mcp_list_tools", TOOLS | SERVER),
    ("mcp_approval_response", APPROVAL),
    ("additional_tools", TOOLS),
    ("tool_search_call", ARGUMENTS | CALL),
];

/// How an upstream uses a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceUse {
    /// It looks up the object.
    LookedUp,
    /// It may look it up: the reference stands at a place without a meaning of its own, or in an item with some content.
    Perhaps,
    /// The same, of what is a word rather than an id.
    Hardly,
    /// It does not look it up: the item brings its content.
    Whole,
}

/// An item of `input` or `items` that is open.
#[derive(Debug)]
pub(super) struct OpenItem {
    /// Where it begins.
    pub(super) at: u64,
    depth: usize,
    /// Its id, by its place among the references.
    id: Id,
    kind: ItemKind,
    members: u32,
    /// Members that are there, if only as something empty.
    present: u32,
    /// The member that is open, as a bit.
    member: u32,
    /// A number that belongs to its `call_id`.
    pub(super) call: Option<u64>,
    /// Something in it is encrypted.
    pub(super) is_encrypted: bool,
}

#[derive(Clone, Copy, Debug)]
enum Id {
    None,
    /// By its place among the references.
    One(usize),
    /// An item that has several is no item.
    Several,
}

/// What its `type` says of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ItemKind {
    /// It has none.
    Untyped,
    Reference,
    /// Made of one of these members.
    Made {
        of: u32,
        /// Its `status` says that a call ran.
        is_record: bool,
        is_cuttable: bool,
        /// Providers look it up by nothing but its id.
        is_by_id: bool,
        /// It steers, with nothing in it: no provider stores one.
        is_control: bool,
    },
}

impl OpenItem {
    /// That of an object of which nothing is known yet.
    pub(super) fn new(level: Level, at: u64) -> Self {
        let (id, kind) = (Id::None, ItemKind::Untyped);
        Self { at, depth: level.depth, id, kind, members: 0, present: 0, member: 0, call: None, is_encrypted: false }
    }

    /// Whether this is its own object.
    pub(super) fn is(&self, level: Level) -> bool {
        level.depth == self.depth && !level.is_array
    }

    /// It has an id, by its place among the references.
    pub(super) fn has_id(&mut self, place: usize) {
        self.id = if matches!(self.id, Id::None) { Id::One(place) } else { Id::Several };
    }

    /// It is of this type.
    pub(super) fn is_a(&mut self, name: &str) {
        let known = MADE_OF.iter().find(|(known, _)| *known == name).map(|(_, of)| *of);
        let is_call = name.ends_with("_call");
        self.kind = match name {
            "" => ItemKind::Untyped,
            // Lenient servers read it in any letter case.
            _ if name.trim().eq_ignore_ascii_case("item_reference") => ItemKind::Reference,
            _ => ItemKind::Made {
                of: known.unwrap_or(if name.ends_with("_output") { OUTPUT | CALL | TOOLS } else { !LABELS }),
                is_record: is_call && name != "image_generation_call",
                is_cuttable: is_call || name == "reasoning",
                is_by_id: matches!(name, "reasoning" | "image_generation_call"),
                is_control: name == "context_compaction"
                    || (known.is_none() && !is_call && !name.ends_with("_output") && !name.trim().is_empty()),
            },
        };
    }

    /// A container begins in it: `member` is the bit of its name, if it is a member of the item.
    pub(super) fn opens(&mut self, level: Level, member: u32) {
        if level.depth == self.depth + 1 {
            self.member = if member == 0 { OTHER } else { member };
            self.present |= self.member;
        }
    }

    /// A string stands in `level`, at a name with this bit.
    #[inline]
    pub(super) fn holds(&mut self, level: Level, member: u32, is_empty: bool) {
        let of_item = if member == 0 { OTHER } else { member };
        let member = if level.depth == self.depth { of_item } else { self.member };
        self.present |= member;
        self.members |= if is_empty { 0 } else { member };
    }

    /// At its end: how an upstream uses its id.
    pub(super) fn uses(&self) -> ReferenceUse {
        let (made, labels) = match self.kind {
            ItemKind::Reference => return ReferenceUse::LookedUp,
            ItemKind::Untyped => (self.members & (ROLE | CONTENT) == ROLE | CONTENT, LABELS),
            ItemKind::Made { of, is_record, .. } => {
                (self.members & of != 0, if is_record { LABELS & !STATUS } else { LABELS })
            }
        };
        match made && !matches!(self.id, Id::Several) {
            true => ReferenceUse::Whole,
            false if self.members & !labels != 0 || self.is_empty() => ReferenceUse::Perhaps,
            false => ReferenceUse::LookedUp,
        }
    }

    /// Whether the members that it is made of are there, but empty: a turn in which a model only called tools leaves such a message, and
    /// a tool may have no output.
    fn is_empty(&self) -> bool {
        match self.kind {
            ItemKind::Untyped => self.members & ROLE != 0 && self.present & CONTENT != 0,
            ItemKind::Made { of, is_by_id, is_control, .. } => {
                is_control || (!is_by_id && self.present & of & !LABELS != 0)
            }
            ItemKind::Reference => false,
        }
    }

    /// Its id by its place among the references, if it has one.
    pub(super) fn id(&self) -> Option<usize> {
        if let Id::One(place) = self.id { Some(place) } else { None }
    }

    /// Whether only the account that made it understands it, and a request may go on without it: encrypted content, and the records of
    /// reasoning and of calls that are left to the provider.
    pub(super) fn is_cuttable(&self) -> bool {
        let bare = || self.uses() == ReferenceUse::LookedUp && self.id().is_some();
        self.is_encrypted || (bare() && matches!(self.kind, ItemKind::Made { is_cuttable: true, .. }))
    }
}
