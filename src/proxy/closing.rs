//! Settles a request at its end: its ledger row and its permit, together and once.

use http::StatusCode;

use crate::{
    domain::{ledger::UsageState, money::Exchange, outcome::EndReason, problem::Problem, usage::Usage},
    limits::{Permit, Used},
    metering::Settlement,
};

/// A request that is not settled yet. If this value is dropped before, the connection's disconnect record says how the request
/// ended.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) settlement: Settlement,
    /// Set once the key was admitted.
    pub(super) permit: Option<Permit>,
}

impl From<Settlement> for Closing {
    fn from(settlement: Settlement) -> Self {
        Self { settlement, permit: None }
    }
}

impl Closing {
    /// Settles with this end.
    pub(super) fn close(&mut self, end: EndReason) {
        self.settlement.settle(end);
        self.settle_permit();
    }

    /// Settles with an error of Tidegate.
    pub(super) fn refuse(&mut self, problem: Problem, status: StatusCode) {
        self.settlement.refuse(problem, status);
        self.settle_permit();
    }

    /// Settles after the client left. The connection's disconnect record says how.
    pub(super) fn leave(&mut self) {
        self.settlement.leave();
        self.settle_permit();
    }

    /// Gives the limits the usage of the ledger row.
    fn settle_permit(&mut self) {
        let Some(mut permit) = self.permit.take() else { return };
        let Some(charged) = self.settlement.charged() else {
            return permit.settle(Used::Nothing, None, Exchange::default());
        };
        if let Some(lesson) = charged.lesson {
            permit.learn(lesson);
        }
        let Usage { input, output, .. } = charged.usage;
        let used = match charged.state {
            UsageState::Exact if charged.usage.is_nothing() => Used::Nothing,
            UsageState::Exact | UsageState::UnpricedPart => Used::Tokens { input, output },
            _ => Used::Partly { input, output: output.max(charged.text), seen: charged.seen },
        };
        permit.settle(used, charged.cost, charged.exchange);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.leave();
    }
}
