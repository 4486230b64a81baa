//! What a method and a path ask for.

use http::Method;

use super::fault::Fault;

/// One call, with the ids of its path.
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
    /// The call of a path behind a base URL. assumed: every path but `/responses` and the two of the relay, in the
    /// original's shape; the pages of the three document only these.
    pub(super) fn find(method: &Method, path: &str) -> Result<Self, Fault> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(Fault::no_such_url(method, path));
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
            _ => return Err(allowed(&parts).map_or_else(|| Fault::no_such_url(method, path), Fault::method)),
        })
    }
}

/// The two calls that stand where an id could.
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
    fn finds_calls_and_says_what_a_path_takes() {
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
