//! Settles a request at its end: its ledger row and its permit, together and once.

use http::StatusCode;

use crate::{
    domain::{ledger::UsageState, money::Exchange, outcome::EndReason, problem::Problem, usage::Usage},
    limits::{Permit, UsedTokens},
    metering::Settlement,
};

/// A request that is not settled yet. If this value is dropped before, the connection's disconnect record says how the request
/// ended.
#[derive(Debug)]
pub(super) struct SettleOnDrop {
    pub(super) settlement: Settlement,
    /// Set once the key was admitted.
    pub(super) permit: Option<Permit>,
}

impl From<Settlement> for SettleOnDrop {
    fn from(settlement: Settlement) -> Self {
        Self { settlement, permit: None }
    }
}

impl SettleOnDrop {
    /// Settles with this end.
    pub(super) fn settle(&mut self, end: EndReason) {
        self.settlement.settle(end);
        self.settle_permit();
    }

    /// Settles with an error of Tidegate.
    pub(super) fn refuse(&mut self, problem: Problem, status: StatusCode) {
        self.settlement.refuse(problem, status);
        self.settle_permit();
    }

    /// Settles after the client left. The connection's disconnect record says how.
    pub(super) fn settle_disconnected(&mut self) {
        self.settlement.settle_disconnected();
        self.settle_permit();
    }

    /// Gives the limits the usage of the ledger row.
    fn settle_permit(&mut self) {
        let Some(mut permit) = self.permit.take() else { return };
        let Some(charged) = self.settlement.charged() else {
            return permit.settle(UsedTokens::Nothing, None, Exchange::default());
        };
        if let Some(sample) = charged.sample {
            permit.learn(sample);
        }
        let Usage { input, output, .. } = charged.usage;
        let used = match charged.state {
            UsageState::Exact if charged.usage.is_nothing() => UsedTokens::Nothing,
            UsageState::Exact | UsageState::UnpricedPart => UsedTokens::Reported { input, output },
            _ => UsedTokens::Partly { input, output: output.max(charged.text), seen: charged.seen },
        };
        permit.settle(used, charged.cost, charged.exchange);
    }
}

impl Drop for SettleOnDrop {
    fn drop(&mut self) {
        self.settle_disconnected();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        concurrent::request_ids::RequestIds,
        domain::{clock::Clock, random::RandomBytes},
        metering::DisconnectRecord,
        metrics::Metrics,
    };

    fn guard(metrics: &Metrics) -> SettleOnDrop {
        let ids = RequestIds::new(Clock::system(), RandomBytes::system()).unwrap();
        Settlement::open(Arc::new(metrics.worker([].into_iter())), ids.next(), DisconnectRecord::default()).into()
    }

    #[test]
    fn a_panic_is_recorded_as_a_fault_of_ours_and_not_as_a_client_that_left() {
        let metrics = Metrics::default();
        std::thread::scope(|scope| {
            let dropped = scope.spawn(|| {
                let _guard = guard(&metrics);
                panic!("on purpose");
            });
            dropped.join().unwrap_err();
            let settled = scope.spawn(|| {
                let mut guard = guard(&metrics);
                guard.settle(EndReason::Completed);
                panic!("on purpose");
            });
            settled.join().unwrap_err();
        });
        drop(guard(&metrics));
        let text = metrics.text().unwrap();
        for line in [
            r#"tidegate_problems_total{code="internal_error"} 1"#,
            r#"tidegate_requests_total{upstream="",end="refused"} 1"#,
            r#"tidegate_requests_total{upstream="",end="completed"} 1"#,
            r#"tidegate_requests_total{upstream="",end="client_gone"} 1"#,
            "tidegate_requests_in_flight 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
        }
    }
}
