//! One call, with all that is needed to answer it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use super::account::ProviderAccount;
use super::body::AnswerBody;
use super::directive::Directive;
use super::ids::Ids;
use super::json::Json;
use super::options::Options;
use super::received::Received;
use super::stop::NoAnswer;
use super::store::Store;
use super::{head, query};

/// The state that outlives a request.
pub(super) struct SimulatorState {
    pub(super) options: Options,
    store: Mutex<Store>,
    received: Mutex<Received>,
}

impl SimulatorState {
    pub(super) fn new(options: Options) -> Arc<Self> {
        Arc::new(Self { options, store: Mutex::default(), received: Mutex::default() })
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call, with all that is needed to answer it.
pub(super) struct Call {
    pub(super) shared: Arc<SimulatorState>,
    pub(super) account: ProviderAccount,
    pub(super) ids: Ids,
    pub(super) request_id: String,
    pub(super) parts: Parts,
    pub(super) body: Bytes,
}

impl Call {
    /// A whole answer, in the provider's JSON style.
    pub(super) fn json(&self, value: &Json) -> Response<AnswerBody> {
        head::json(value.write(self.account.personality.spaced()), &self.request_id)
    }

    /// A parameter of the query.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        query::value(self.parts.uri.query(), name)
    }

    /// Applies the directive's effects that come before or replace an answer.
    pub(super) async fn obey(&self, directive: &Directive) -> Result<(), NoAnswer> {
        if let Some(delay) = directive.head_delay {
            tokio::time::sleep(delay).await;
        }
        if directive.cut_head {
            return Err(NoAnswer::CutHead);
        }
        if let Some(fault) = &directive.error {
            return Err(fault.clone().into());
        }
        if let Some(status) = directive.html {
            return Err(NoAnswer::Instead(Box::new(head::page(status, &self.request_id))));
        }
        if directive.redirect {
            return Err(NoAnswer::Instead(Box::new(head::redirect(&self.request_id))));
        }
        Ok(())
    }
}
