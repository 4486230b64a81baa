//! Handles one request: finds the provider, the account and the operation, and answers.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};

use super::account::ProviderAccount;
use super::body::AnswerBody;
use super::call::{Call, SimulatorState};
use super::directive::Directive;
use super::fault::SimulatedError;
use super::ids::Ids;
use super::json::Json;
use super::personality::Personality;
use super::received;
use super::route::Operation;
use super::stop::NoAnswer;
use super::{chat, conversations, embeddings, head, responses};

/// The largest request body: enough for many images. A larger one is refused.
const MAX_BODY: usize = 64 << 20;

/// Answers a request. An error closes the connection without an answer.
pub(super) async fn reply(request: Request<Incoming>, shared: Arc<SimulatorState>) -> io::Result<Response<AnswerBody>> {
    let mut ids = Ids::new(shared.options.random_bytes, shared.options.clock).map_err(io::Error::other)?;
    let request_id = ids.next("req_");
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if path == received::PATH {
        return Ok(about_received(&shared, &parts, &request_id));
    }
    let Some((personality, path)) = Personality::of_path(&path) else {
        // The path belongs to no provider: the answer has the original API's shape.
        let fault = SimulatedError::no_such_url(&parts.method, &path);
        return Ok(head::refuse(Personality::Dmxapi, &fault, &request_id));
    };
    let account = ProviderAccount::of(personality, &parts.headers);
    let asked = account.and_then(|account| Ok((Operation::find(&parts.method, path)?, account)));
    let (operation, account) = match asked {
        Ok(asked) => asked,
        Err(fault) => {
            let account = ProviderAccount::of(personality, &parts.headers).ok();
            shared.received().record((personality, account.as_ref()), &parts, path, &Bytes::new());
            return Ok(head::refuse(personality, &fault, &request_id));
        }
    };
    let body = match read(body).await {
        Ok(body) => body,
        Err(fault) => return Ok(head::refuse(personality, &fault, &request_id)),
    };
    shared.received().record((personality, Some(&account)), &parts, path, &body);
    let call = Call { shared, account, ids, request_id: request_id.clone(), parts, body };
    match answer(call, operation).await {
        Ok(response) => Ok(response),
        Err(NoAnswer::Refused(fault)) => Ok(head::refuse(personality, &fault, &request_id)),
        Err(NoAnswer::Instead(response)) => Ok(*response),
        Err(NoAnswer::CutHead) => Err(cut_head()),
    }
}

async fn answer(call: Call, operation: Operation) -> Result<Response<AnswerBody>, NoAnswer> {
    match operation {
        Operation::Create => return responses::create(call).await,
        Operation::Chat => return chat::create(call).await,
        Operation::Compact => return responses::compact(call).await,
        Operation::InputTokens => return responses::input_tokens(call).await,
        Operation::Embeddings => return embeddings::create(call).await,
        _ => {}
    }
    // A call without a body has its directives in the query.
    call.obey(&Directive::parse(&call.query("simulate").unwrap_or_default())?).await?;
    match operation {
        Operation::Retrieve(id) => responses::retrieve(&call, &id),
        Operation::Delete(id) => responses::delete(&call, &id),
        Operation::Cancel(id) => responses::cancel(&call, &id),
        Operation::InputItems(id) => responses::input_items(&call, &id),
        Operation::CreateConversation => conversations::create(call),
        Operation::RetrieveConversation(id) => conversations::retrieve(&call, &id),
        Operation::UpdateConversation(id) => conversations::update(&call, &id),
        Operation::DeleteConversation(id) => conversations::delete(&call, &id),
        Operation::CreateItems(id) => conversations::create_items(call, &id),
        Operation::ListItems(id) => conversations::list_items(&call, &id),
        Operation::RetrieveItem(id, item) => conversations::retrieve_item(&call, &id, &item),
        Operation::DeleteItem(id, item) => conversations::delete_item(&call, &id, &item),
        // assumed: a list of models in the original API's shape. No page documents this path.
        _ => Ok(call.json(&models(call.account.personality, call.ids.created))),
    }
}

async fn read(body: Incoming) -> Result<Bytes, SimulatedError> {
    // A body with a declared length is refused before it is read, any other while it is read.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(SimulatedError::too_large(MAX_BODY));
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(SimulatedError::too_large(MAX_BODY)),
        Err(_) => Err(SimulatedError::internal("The request body did not come to its end.")),
    }
}

fn about_received(shared: &SimulatorState, parts: &Parts, request_id: &str) -> Response<AnswerBody> {
    match parts.method {
        Method::GET => head::json(shared.received().to_json(parts.uri.query()).to_string(), request_id),
        Method::DELETE => {
            shared.received().clear();
            head::json("{}", request_id)
        }
        _ => head::refuse(Personality::Dmxapi, &SimulatedError::method("GET, DELETE"), request_id),
    }
}

fn models(personality: Personality, created: u64) -> Json {
    let entries = personality.models().iter().map(|model| {
        Json::Object(vec![
            ("id", model.name.into()),
            ("object", "model".into()),
            ("created", created.into()),
            ("owned_by", personality.name().into()),
        ])
    });
    Json::Object(vec![("object", "list".into()), ("data", Json::Array(entries.collect()))])
}

/// The error that closes a connection before an answer.
fn cut_head() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "closed before the answer on purpose")
}
