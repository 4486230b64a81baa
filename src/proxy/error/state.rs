//! Errors about state that a request refers to. No message repeats an id. An id that never existed and an id of another owner
//! get the same message.

use std::time::Duration;

use super::ApiError;
use crate::domain::{origin::ReferenceKind, problem::Problem};

impl ApiError {
    /// An unknown id, an invalid id, and an id of another owner. The message is the same for all three and does not repeat the
    /// id.
    pub(in crate::proxy) fn unknown_id() -> Self {
        Self::new(
            Problem::UnknownId,
            "No object with this id exists, or this key may not use the object. Check the id and the key.",
        )
    }

    /// The body refers to an object, at the field `name` if Tidegate knows that field. An object that never existed and an
    /// object of another owner get the same message, which does not repeat the id.
    pub(in crate::proxy) fn unknown_reference(kind: ReferenceKind, name: Option<&'static str>) -> Self {
        let Some(name) = name else {
            let article = if matches!(kind, ReferenceKind::Item | ReferenceKind::Opaque) { "an" } else { "a" };
            let message = format!(
                "The request contains the id of {article} {} that does not exist, or that this key may not use. Remove \
                 the id.",
                kind.name().replace('_', " ")
            );
            return Self::new(Problem::UnknownId, message);
        };
        let what = match kind {
            ReferenceKind::Response => {
                let name = if name == "id" { "previous_response_id" } else { name };
                let message = format!(
                    "`{name}`: no response with this id exists, or this key may not use the response. Send another id, \
                     or start without `{name}`."
                );
                return Self::new(Problem::PreviousResponseNotFound, message).about(name);
            }
            ReferenceKind::Item => {
                let message = "Item with this id not found, or this key may not use the item. Items are not persisted \
                    when `store` is set to false. Try again with `store` set to true, or remove this item from your \
                    input.";
                // The field is the id of an item of the input.
                return Self::new(Problem::UnknownId, message).about(if name == "id" { "input" } else { name });
            }
            ReferenceKind::Conversation => "Conversation",
            ReferenceKind::File => "File",
            ReferenceKind::VectorStore => "Vector store",
            ReferenceKind::Container => "Container",
            ReferenceKind::Prompt => "Prompt",
            ReferenceKind::Skill => "Skill",
            ReferenceKind::Opaque => "Object",
            ReferenceKind::Encrypted | ReferenceKind::TurnState => "Content",
        };
        let message = format!(
            "{what} with this id not found, or this key may not use that object. Check the id, or remove the id from \
             the request."
        );
        // The parameter is the object that contains the id, or the field itself.
        let param = if name == "id" && kind == ReferenceKind::Conversation { "conversation" } else { name };
        Self::new(Problem::UnknownId, message).about(param)
    }

    /// The request refers to state in different accounts.
    pub(in crate::proxy) fn conflicting_state([one, other]: [&str; 2], [here, there]: [&str; 2]) -> Self {
        Self::new(
            Problem::ConflictingState,
            format!(
                "The request refers to state in different provider accounts: {one} and {other}, at the upstreams \
                 `{here}` and `{there}`. One account cannot use the state of another account. Remove one of the two \
                 references."
            ),
        )
    }

    /// The state is stored at an upstream where the model has no target.
    pub(in crate::proxy) fn conflicting_model(what: &str, upstream: &str, model: &str, others: &[&str]) -> Self {
        let others = match others {
            [] => String::new(),
            others => format!(" Models of this key with a target at this upstream: `{}`.", others.join("`, `")),
        };
        let message = format!(
            "The request refers to state ({what}) at the upstream `{upstream}`, but the model `{model}` has no target \
             at this upstream.{others} Use a model with a target at this upstream, or remove the reference to the \
             state."
        );
        Self::new(Problem::ConflictingState, message)
    }

    /// The account that stores the state was removed, or this key may not use the account.
    pub(in crate::proxy) fn state_lost(what: &str) -> Self {
        Self::new(
            Problem::StateLost,
            format!(
                "The request refers to state ({what}) in a provider account that this gateway no longer uses, or not \
                 for this key. Remove the reference and start again without this state."
            ),
        )
    }

    /// The account that stores the state is ejected for this time.
    pub(in crate::proxy) fn state_unavailable(what: &str, after: Duration) -> Self {
        let message = format!(
            "The request refers to state ({what}) in a provider account that is not available right now. No other \
             account has this state. Try again later, or start without this state."
        );
        Self { after: Some(after), ..Self::new(Problem::StateUnavailable, message) }
    }

    /// The affinity store cannot be read.
    pub(in crate::proxy) fn affinity_unavailable() -> Self {
        Self::new(
            Problem::AffinityUnavailable,
            "This gateway cannot look up right now which account has the state of this request. Nothing was sent to a \
             provider. Try again in a moment.",
        )
    }
}
