//! Maps a method and a path to an operation.

use http::Method;

use super::fault::SimulatedError;

/// One operation of the API, with the ids of its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Models,
    Create,
    InputTokens,
    Compact,
    Retrieve(String),
    Delete(String),
    Cancel(String),
    InputItems(String),
    CreateConversation,
    RetrieveConversation(String),
    UpdateConversation(String),
    DeleteConversation(String),
    CreateItems(String),
    ListItems(String),
    RetrieveItem(String, String),
    DeleteItem(String, String),
    Chat,
    Embeddings,
}

impl Operation {
    /// Finds the operation of a path after a base URL. assumed: every path but `/responses` and the two that Tidegate
    /// relays has the original API's shape. The pages of the three providers document only those.
    pub(super) fn find(method: &Method, path: &str) -> Result<Self, SimulatedError> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(SimulatedError::no_such_url(method, path));
        }
        let own = |id: &str| id.to_owned();
        Ok(match (method.as_str(), parts.as_slice()) {
            ("GET", ["models"]) => Self::Models,
            ("POST", ["responses"]) => Self::Create,
            ("POST", ["responses", "input_tokens"]) => Self::InputTokens,
            ("POST", ["responses", "compact"]) => Self::Compact,
            ("POST", ["chat", "completions"]) => Self::Chat,
            ("POST", ["embeddings"]) => Self::Embeddings,
            ("GET", ["responses", id]) if !is_verb(id) => Self::Retrieve(own(id)),
            ("DELETE", ["responses", id]) if !is_verb(id) => Self::Delete(own(id)),
            ("POST", ["responses", id, "cancel"]) => Self::Cancel(own(id)),
            ("GET", ["responses", id, "input_items"]) => Self::InputItems(own(id)),
            ("POST", ["conversations"]) => Self::CreateConversation,
            ("GET", ["conversations", id]) => Self::RetrieveConversation(own(id)),
            ("POST", ["conversations", id]) => Self::UpdateConversation(own(id)),
            ("DELETE", ["conversations", id]) => Self::DeleteConversation(own(id)),
            ("POST", ["conversations", id, "items"]) => Self::CreateItems(own(id)),
            ("GET", ["conversations", id, "items"]) => Self::ListItems(own(id)),
            ("GET", ["conversations", id, "items", item]) => Self::RetrieveItem(own(id), own(item)),
            ("DELETE", ["conversations", id, "items", item]) => Self::DeleteItem(own(id), own(item)),
            _ => {
                return Err(
                    allowed(&parts).map_or_else(|| SimulatedError::no_such_url(method, path), SimulatedError::method)
                );
            }
        })
    }
}

/// Whether the path part is one of the two operations that look like an id.
fn is_verb(part: &str) -> bool {
    matches!(part, "input_tokens" | "compact")
}

/// The methods of a path, if there is such a path.
fn allowed(parts: &[&str]) -> Option<&'static str> {
    Some(match parts {
        ["models"] | ["responses", _, "input_items"] => "GET",
        ["responses" | "conversations" | "embeddings"] | ["chat", "completions"] | ["responses", _, "cancel"] => "POST",
        ["responses", part] if is_verb(part) => "POST",
        ["responses", _] | ["conversations", _, "items", _] => "GET, DELETE",
        ["conversations", _] => "GET, POST, DELETE",
        ["conversations", _, "items"] => "GET, POST",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_its_operation_and_lists_its_methods() {
        let find = |method: Method, path| Operation::find(&method, path);
        assert_eq!(find(Method::POST, "/responses").unwrap(), Operation::Create);
        assert_eq!(find(Method::POST, "/responses/compact").unwrap(), Operation::Compact);
        assert_eq!(find(Method::GET, "/responses/resp_1").unwrap(), Operation::Retrieve("resp_1".into()));
        let item = Operation::DeleteItem("c".into(), "i".into());
        assert_eq!(find(Method::DELETE, "/conversations/c/items/i").unwrap(), item);
        for (method, path, allow) in [
            (Method::GET, "/responses", "POST"),
            (Method::PUT, "/responses/x", "GET, DELETE"),
            (Method::GET, "/responses/x/cancel", "POST"),
            (Method::DELETE, "/conversations/c/items", "GET, POST"),
        ] {
            let fault = find(method, path).unwrap_err();
            assert_eq!((fault.status.as_u16(), fault.allow), (405, Some(allow)), "{path}");
        }
        for path in
            ["", "/", "/responses/", "/responses//cancel", "/responses/x/y", "/files", "/conversations/c/items/i/j"]
        {
            assert_eq!(find(Method::GET, path).unwrap_err().status, 404, "{path}");
        }
    }
}
