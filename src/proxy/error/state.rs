//! What goes wrong with state that a request refers to. No text repeats an id: what never was and what is somebody else's read alike.

use std::time::Duration;

use super::ApiError;
use crate::domain::{origin::Kind, problem::Problem};

impl ApiError {
    /// The same for an id that never was, one that is none, and one of somebody else: it is not repeated.
    pub(in crate::proxy) fn unknown_id() -> Self {
        Self::new(Problem::UnknownId, "There is nothing with this id, or this key may not use it.")
    }

    /// An object to which the body refers, at the field `name` if it has a name that Tidegate knows: the same for what never was and for
    /// what is another owner's, whose id is not repeated.
    pub(in crate::proxy) fn unknown_reference(kind: Kind, name: Option<&'static str>) -> Self {
        let Some(name) = name else {
            let message = format!(
                "The request holds the id of a {} that does not exist, or that this key may not use. Leave the id out.",
                kind.name().replace('_', " ")
            );
            return Self::new(Problem::UnknownId, message);
        };
        let what = match kind {
            Kind::Response => {
                let name = if name == "id" { "previous_response_id" } else { name };
                let message = format!("`{name}`: there is no response with this id, or this key may not use it.");
                return Self::new(Problem::PreviousResponseNotFound, message).about(name);
            }
            Kind::Item => {
                let message = "Item with this id not found, or this key may not use it. Items are not persisted when `store` is \
                               set to false. Try again with `store` set to true, or remove this item from your input.";
                // The id of an item of the input.
                return Self::new(Problem::UnknownId, message).about(if name == "id" { "input" } else { name });
            }
            Kind::Conversation => "Conversation",
            Kind::File => "File",
            Kind::VectorStore => "Vector store",
            Kind::Container => "Container",
            Kind::Prompt => "Prompt",
            Kind::Skill => "Skill",
            Kind::Encrypted | Kind::TurnState => "Content",
        };
        let message = format!("{what} with this id not found, or this key may not use it.");
        // An object that holds it, or the field itself.
        let param = if name == "id" && kind == Kind::Conversation { "conversation" } else { name };
        Self::new(Problem::UnknownId, message).about(param)
    }

    /// What it refers to is in different accounts.
    pub(in crate::proxy) fn conflicting_state([one, other]: [&str; 2], [here, there]: [&str; 2]) -> Self {
        Self::new(
            Problem::ConflictingState,
            format!(
                "The request refers to state that lives in different provider accounts: {one} and {other}, at the \
                 upstreams `{here}` and `{there}`. One account cannot use what another one holds."
            ),
        )
    }

    /// The account that holds the state cannot be asked for the model: where that leads is not there.
    pub(in crate::proxy) fn conflicting_model(what: &str, upstream: &str, model: &str, others: &[&str]) -> Self {
        let others = match others {
            [] => String::new(),
            others => format!(" Models of this key that lead there: `{}`.", others.join("`, `")),
        };
        let message = format!(
            "The request refers to state ({what}) that lives at the upstream `{upstream}`, and the model `{model}` does not lead there.{others} \
             Ask for a model that leads there, or begin without the state."
        );
        Self::new(Problem::ConflictingState, message)
    }

    /// The account is not there any more, or not for this key.
    pub(in crate::proxy) fn state_lost(what: &str) -> Self {
        Self::new(
            Problem::StateLost,
            format!(
                "The request refers to state ({what}) that lives in a provider account which this gateway does not use any more, \
                 or not for this key. Begin without it."
            ),
        )
    }

    /// The account is left alone for so long.
    pub(in crate::proxy) fn state_unavailable(what: &str, after: Duration) -> Self {
        let message = format!(
            "The request refers to state ({what}) that lives in a provider account which cannot be asked right now. It can be used \
             nowhere else. Try again later."
        );
        Self { after: Some(after), ..Self::new(Problem::StateUnavailable, message) }
    }

    /// The store of origins cannot be asked.
    pub(in crate::proxy) fn affinity_unavailable() -> Self {
        Self::new(
            Problem::AffinityUnavailable,
            "State cannot be looked up right now; nothing went to a provider. Try again in a moment.",
        )
    }
}
