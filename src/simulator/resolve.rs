//! Looks up what a parsed request refers to: items, the response or the conversation that it continues, what was sealed.

use std::sync::Arc;

use serde_json::Value;

use super::account::Account;
use super::ask::{Ask, Memory};
use super::fault::Fault;
use super::input::{self, Input};
use super::seal;
use super::store::Store;

/// Puts what the request refers to in its place. Nothing of another account is ever found.
pub(super) fn resolve(ask: &mut Ask, account: &Account, store: &Store) -> Result<(), Fault> {
    let mut referred = false;
    for item in &mut ask.items {
        if let Some(id) = input::reference(item) {
            *item = store.item(account, id).ok_or_else(|| Fault::unknown_item(id))?;
            referred = true;
        }
    }
    if referred {
        let characters = ask.input.characters;
        ask.input = Input::read(&ask.items)?;
        ask.input.take_directives();
        ask.input.characters = ask.input.characters.max(characters);
    }
    let items = before(ask, account, store)?;
    let mut memory = Memory { input: Input::read(&items)?, items, opened: 0, opened_turn: 0 };
    for sealed in &ask.input.sealed {
        let Some(turn) = seal::open(account, sealed) else {
            let message = "The encrypted content could not be verified: it was not made for this account.";
            return Err(Fault::known("invalid_encrypted_content", "input", message));
        };
        memory.opened += 1;
        memory.opened_turn = memory.opened_turn.max(turn);
    }
    ask.memory = memory;
    Ok(())
}

/// Everything that was said before.
fn before(ask: &Ask, account: &Account, store: &Store) -> Result<Vec<Arc<Value>>, Fault> {
    match (ask.field("previous_response_id"), ask.conversation()) {
        (Some(_), Some(_)) => Err(Fault::request(
            Some("mutually_exclusive_parameters"),
            Some("previous_response_id"),
            "Only one of `previous_response_id` and `conversation` can be given.",
        )),
        (Some(previous), None) => {
            let id = previous.as_str().unwrap_or_default();
            let found = store.response(account, id).map(|previous| previous.said().cloned().collect());
            found.ok_or_else(|| {
                let message = format!("Previous response with id '{id}' not found.");
                Fault::known("previous_response_not_found", "previous_response_id", message)
            })
        }
        (None, Some(id)) => {
            let conversation = store.conversation(account, id);
            conversation.map(|found| found.items.clone()).ok_or_else(|| Fault::unknown("Conversation", id))
        }
        (None, None) => Ok(Vec::new()),
    }
}
