//! Looks up what a parsed request refers to: items, the response or the conversation that it continues, and sealed
//! content.

use std::sync::Arc;

use serde_json::Value;

use super::account::ProviderAccount;
use super::fault::SimulatedError;
use super::input::{self, Input};
use super::request::{Memory, ParsedRequest};
use super::seal;
use super::store::Store;

/// Replaces references with their items. Items of another account are never found.
pub(super) fn resolve(ask: &mut ParsedRequest, account: &ProviderAccount, store: &Store) -> Result<(), SimulatedError> {
    let mut referred = false;
    for item in &mut ask.items {
        if let Some(id) = input::reference(item) {
            *item = store.item(account, id).ok_or_else(|| SimulatedError::unknown_item(id))?;
            referred = true;
        }
    }
    if referred {
        let characters = ask.input.characters;
        ask.input = Input::read(&ask.items)?;
        ask.input.take_directives();
        ask.input.characters = ask.input.characters.max(characters);
    }
    let items = earlier_items(ask, account, store)?;
    let mut memory = Memory { input: Input::read(&items)?, items, opened: 0, opened_turn: 0 };
    for sealed in &ask.input.sealed {
        let Some(turn) = seal::open(account, sealed) else {
            let message = "The encrypted content could not be verified: it was not made for this account.";
            return Err(SimulatedError::known("invalid_encrypted_content", "input", message));
        };
        memory.opened += 1;
        memory.opened_turn = memory.opened_turn.max(turn);
    }
    ask.memory = memory;
    Ok(())
}

/// All items from earlier requests.
fn earlier_items(
    ask: &ParsedRequest,
    account: &ProviderAccount,
    store: &Store,
) -> Result<Vec<Arc<Value>>, SimulatedError> {
    match (ask.field("previous_response_id"), ask.conversation()) {
        (Some(_), Some(_)) => Err(SimulatedError::request(
            Some("mutually_exclusive_parameters"),
            Some("previous_response_id"),
            "Only one of `previous_response_id` and `conversation` can be given.",
        )),
        (Some(previous), None) => {
            let id = previous.as_str().unwrap_or_default();
            let found = store.response(account, id).map(|previous| previous.said().cloned().collect());
            found.ok_or_else(|| {
                let message = format!("Previous response with id '{id}' not found.");
                SimulatedError::known("previous_response_not_found", "previous_response_id", message)
            })
        }
        (None, Some(id)) => {
            let conversation = store.conversation(account, id);
            conversation.map(|found| found.items.clone()).ok_or_else(|| SimulatedError::unknown("Conversation", id))
        }
        (None, None) => Ok(Vec::new()),
    }
}
