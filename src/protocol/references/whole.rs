//! Items of a request: which of them are whole.
//!
//! The `id` of an item of `input` or `items` has to be looked up only where the item is not whole. Codex gives ids of its own
//! to what it sends, which no provider ever saw, and SDKs send back what they were given (docs/wire.md, section 4); where
//! an item brings all that it is, nobody reads anything of anybody by its id. Whole are these, and no others:
//!
//! | `type` | with |
//! | --- | --- |
//! | `message`, or none | `role` and `content`: without them it refers to an item |
//! | `function_call` | `name` and `arguments` |
//! | `custom_tool_call` | `name` and `input` |
//! | `function_call_output`, `custom_tool_call_output`, `local_shell_call_output`, `shell_call_output`, `apply_patch_call_output` | `output` |
//! | `local_shell_call`, `shell_call` | `action` |
//! | `apply_patch_call` | `operation` |
//! | `reasoning`, `compaction`, `compaction_summary` | `encrypted_content` of their own |
//!
//! What they have to bring is a string, an object or an array, once and in these letters. Not whole is what a provider looks up
//! (`item_reference`, reasoning that is not encrypted), what refers to something that ran there (images, searches, the code
//! interpreter, computers, MCP), and every type that is not known here.

use super::finder::Level;

// What an item may bring.
pub(super) const ROLE: u16 = 1;
pub(super) const CONTENT: u16 = 1 << 1;
pub(super) const CALLED: u16 = 1 << 2;
pub(super) const ARGUMENTS: u16 = 1 << 3;
pub(super) const TOOL_INPUT: u16 = 1 << 4;
pub(super) const OUTPUT: u16 = 1 << 5;
pub(super) const ACTION: u16 = 1 << 6;
pub(super) const OPERATION: u16 = 1 << 7;
const ENCRYPTED: u16 = 1 << 8;

/// What an item without a type has to bring to be whole.
const MESSAGE_NEEDS: u16 = ROLE | CONTENT;

/// Types of items that may be whole, and what each has to bring for it.
const MAY_BE_WHOLE: [(&str, u16); 14] = [
    ("message", MESSAGE_NEEDS),
    ("function_call", CALLED | ARGUMENTS),
    ("custom_tool_call", CALLED | TOOL_INPUT),
    ("function_call_output", OUTPUT),
    ("custom_tool_call_output", OUTPUT),
    ("local_shell_call_output", OUTPUT),
    ("shell_call_output", OUTPUT),
    ("apply_patch_call_output", OUTPUT),
    ("local_shell_call", ACTION),
    ("shell_call", ACTION),
    ("apply_patch_call", OPERATION),
    ("reasoning", ENCRYPTED),
    ("compaction", ENCRYPTED),
    ("compaction_summary", ENCRYPTED),
];

/// An item of `input` or `items` that is open.
#[derive(Debug)]
pub(super) struct Item {
    /// Where it begins.
    pub(super) at: u64,
    depth: usize,
    /// Its id, by its place among the references.
    id: Id,
    /// What it has to bring to be whole; none = it is not.
    needs: Option<u16>,
    brings: u16,
    /// It is reasoning.
    pub(super) is_reasoning: bool,
    /// Something in it is encrypted.
    pub(super) is_encrypted: bool,
}

#[derive(Debug)]
enum Id {
    None,
    One(usize),
    /// An item that has several is nothing that is known.
    Several,
}

impl Item {
    /// That of an object of which nothing is known yet.
    pub(super) fn new(level: Level, at: u64) -> Self {
        let (id, needs) = (Id::None, Some(MESSAGE_NEEDS));
        Self { at, depth: level.depth, id, needs, brings: 0, is_reasoning: false, is_encrypted: false }
    }

    /// Whether this is its own object.
    pub(super) fn is(&self, level: Level) -> bool {
        level.depth == self.depth && !level.is_array
    }

    /// It has an id, by its place among the references.
    pub(super) fn has_id(&mut self, place: usize) {
        self.id = if matches!(self.id, Id::None) { Id::One(place) } else { Id::Several };
    }

    /// Something encrypted stands in it, `depth` containers deep; `usable` says that it is text.
    pub(super) fn has_encrypted(&mut self, depth: usize, usable: bool) {
        self.is_encrypted = true;
        if depth == self.depth && usable {
            self.brings |= ENCRYPTED;
        }
    }

    /// It is of this type.
    pub(super) fn is_a(&mut self, name: &str) {
        self.is_reasoning = name == "reasoning";
        self.needs = MAY_BE_WHOLE.iter().find(|(known, _)| *known == name).map(|(_, needs)| *needs);
    }

    /// It brings this.
    pub(super) fn brings(&mut self, what: u16) {
        self.brings |= what;
    }

    /// At its end: its id, if it is whole.
    pub(super) fn whole_id(&self) -> Option<usize> {
        match self.id {
            Id::One(place) if self.needs.is_some_and(|needs| self.brings & needs == needs) => Some(place),
            _ => None,
        }
    }
}
