//! Decides which items of a request an upstream has to look up by their `id`.
//!
//! Codex adds its own ids to every item that it sends, which no provider ever saw. SDKs send back the items that they received
//! (docs/wire.md, section 4). If an item contains its content, an upstream does not use its `id`. An upstream treats an
//! item in one of three ways:
//!
//! | an item with | an upstream |
//! | --- | --- |
//! | the type `item_reference` | looks it up |
//! | a type in the list below, or ending in `_call` or `_output`, and only `id`, `type`, `role`, `status` | looks it up |
//! | the same, with a `status` and a type in `_call` (not `image_generation_call`): the record of a call | may look it up |
//! | other members, but none that its type needs | may look it up |
//! | the members that its type needs, but empty; not reasoning and images, which providers look up by `id` alone | may look it up |
//! | the type `context_compaction` or an unknown type, which steers and contains nothing (`compaction_trigger`) | may look it up |
//! | one of the members that its type needs | takes it as it is |
//!
//! | `type` | needs one of |
//! | --- | --- |
//! | none | `role` and `content`, both: otherwise an upstream may take it for a reference |
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
//! A member counts if it contains a string that is not empty, a number or a boolean, at any depth. `null`, `""` and `[]` are no
//! content.

use super::collect::Level;

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

/// The members that are not content.
const LABELS: u32 = LABEL | ROLE | STATUS;

/// For each type of item: the members of which it needs one.
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

/// The types of parts of an `output` whose `file_id` names a file. Other parts are the client's own data.
const PARTS: [&str; 3] = ["input_file", "input_image", "computer_screenshot"];

/// How an upstream uses an id in a request: looks up the stored object, may look it up, or ignores the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceUse {
    /// The upstream looks up the object.
    LookedUp,
    /// The upstream may look up the object. The reference is at a place without a meaning of its own, or in an item with some
    /// content.
    Perhaps,
    /// Like [`ReferenceUse::Perhaps`], for a text that is a word rather than an id.
    Hardly,
    /// The upstream does not look up the object, because the item contains its content.
    Whole,
}

/// An item of `input` or `items` that is open.
#[derive(Debug)]
pub(super) struct OpenItem {
    /// The offset of its first byte.
    pub(super) at: u64,
    depth: usize,
    /// The index of its id among the references.
    id: Id,
    kind: ItemKind,
    members: u32,
    /// The members that it has, even if they are empty.
    present: u32,
    /// The bit of the member that is open.
    member: u32,
    /// A hash of its `call_id`.
    pub(super) call: Option<u64>,
    /// It contains encrypted content.
    pub(super) is_encrypted: bool,
    /// It is the output of a computer call, whose files an upstream looks up.
    is_screen: bool,
    /// The indices, among the references, of the files in its `output`. At the end of the item its type decides whether an
    /// upstream looks them up.
    files: Vec<usize>,
    /// Of the open part of `output`: how many files came before it, and whether its type is a documented one.
    files_before: usize,
    is_known_part: bool,
}

#[derive(Clone, Copy, Debug)]
enum Id {
    None,
    /// The index of the id among the references.
    One(usize),
    /// The object has several ids, and is therefore no item.
    Several,
}

/// The meaning of the `type` of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ItemKind {
    /// The item has no `type`.
    Untyped,
    Reference,
    /// The item needs one of these members.
    Made {
        of: u32,
        /// The item is the record of a call: its `status` shows that the call ran.
        is_record: bool,
        is_cuttable: bool,
        /// Providers look the item up by its id alone, even if its other members are empty.
        is_by_id: bool,
        /// The item steers, and contains nothing. No provider stores such an item.
        is_control: bool,
    },
}

impl OpenItem {
    /// Starts an item at an object about which nothing is known yet.
    pub(super) fn new(level: Level, at: u64) -> Self {
        let (id, kind) = (Id::None, ItemKind::Untyped);
        Self {
            at,
            depth: level.depth,
            id,
            kind,
            members: 0,
            present: 0,
            member: 0,
            call: None,
            is_encrypted: false,
            is_screen: false,
            files: Vec::new(),
            files_before: 0,
            is_known_part: false,
        }
    }

    /// Whether `level` is the item's own object.
    pub(super) fn is(&self, level: Level) -> bool {
        level.depth == self.depth && !level.is_array
    }

    /// Adds an id of the item, by its index among the references.
    pub(super) fn has_id(&mut self, place: usize) {
        self.id = if matches!(self.id, Id::None) { Id::One(place) } else { Id::Several };
    }

    /// Sets the type of the item.
    pub(super) fn is_a(&mut self, name: &str) {
        let known = MADE_OF.iter().find(|(known, _)| *known == name).map(|(_, of)| *of);
        let is_call = name.ends_with("_call");
        self.is_screen = name.trim().eq_ignore_ascii_case("computer_call_output");
        self.kind = match name {
            "" => ItemKind::Untyped,
            // Lenient servers accept any letter case.
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

    /// Starts a part of its `output`, or the whole `output`.
    pub(super) fn opens_part(&mut self) {
        (self.files_before, self.is_known_part) = (self.files.len(), false);
    }

    /// Sets the type of the open part.
    pub(super) fn is_part(&mut self, name: &[u8]) {
        self.is_known_part |= PARTS.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    }

    /// Adds a file that the open part names, by its index among the references.
    pub(super) fn names_file(&mut self, place: usize) {
        self.files.push(place);
    }

    /// Ends the open part. Returns the files that an upstream looks up because of the part's type.
    pub(super) fn closes_part(&mut self) -> Vec<usize> {
        if self.is_known_part { self.files.split_off(self.files_before) } else { Vec::new() }
    }

    /// Returns the files that an upstream looks up because of the item's type. Call it at the end of the item.
    pub(super) fn files(&self) -> &[usize] {
        if self.is_screen { &self.files } else { &[] }
    }

    /// Starts a container inside of the item. `member` is the bit of its name, if it is a member of the item.
    pub(super) fn opens(&mut self, level: Level, member: u32) {
        if level.depth == self.depth + 1 {
            self.member = if member == 0 { OTHER } else { member };
            self.present |= self.member;
        }
    }

    /// Adds a string, a number or a boolean in `level`, at a name with this bit.
    #[inline]
    pub(super) fn holds(&mut self, level: Level, member: u32, is_empty: bool) {
        let of_item = if member == 0 { OTHER } else { member };
        let member = if level.depth == self.depth { of_item } else { self.member };
        self.present |= member;
        self.members |= if is_empty { 0 } else { member };
    }

    /// Returns how an upstream uses the id of the item. Call it at the end of the item.
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

    /// Whether the item has the members that it needs, but they are empty. A turn in which a model only called tools leaves such
    /// a message, and a tool may have an empty output.
    fn is_empty(&self) -> bool {
        match self.kind {
            ItemKind::Untyped => self.members & ROLE != 0 && self.present & CONTENT != 0,
            ItemKind::Made { of, is_by_id, is_control, .. } => {
                is_control || (!is_by_id && self.present & of & !LABELS != 0)
            }
            ItemKind::Reference => false,
        }
    }

    /// Returns the index of its id among the references, if it has one id.
    pub(super) fn id(&self) -> Option<usize> {
        if let Id::One(place) = self.id { Some(place) } else { None }
    }

    /// Whether only the account that made the item can read it, and a request works without it. This applies to encrypted
    /// content, and to records of reasoning and of calls whose content only the provider has.
    pub(super) fn is_cuttable(&self) -> bool {
        let bare = || self.uses() == ReferenceUse::LookedUp && self.id().is_some();
        self.is_encrypted || (bare() && matches!(self.kind, ItemKind::Made { is_cuttable: true, .. }))
    }
}
