//! What the owner publishes: the directory, what this host registered, and its counts; and who is answered afterwards.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::directory::{Membership, Sources, build};
use super::Owner;
use crate::api;
use crate::model::{Callers, Freshness, MemberState};

/// Changes that come together are published together; building the view of 10,000 instances takes a few milliseconds.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(2);
/// The view is rebuilt whole: at most a tenth of the owner's time may go into that.
const PUBLISH_COST_FACTOR: u32 = 10;
/// Between two publications of the counts, at least: the gossip core wakes the owner that often anyway.
const COUNTS_INTERVAL: Duration = Duration::from_millis(500);

impl Owner {
    /// Publishes what has changed, when it is time, and answers those who wait for it.
    pub(super) fn publish(&mut self) {
        let freshness = self.freshness();
        self.dirty |= freshness != self.out.directory.load().freshness;
        let begun = Instant::now();
        if (self.dirty || self.local_dirty) && begun >= self.publish_at {
            self.index += 1;
            if std::mem::take(&mut self.dirty) {
                self.publish_directory(freshness);
            }
            if std::mem::take(&mut self.local_dirty) {
                let local = api::Local { quarantined: self.quarantine.told(), ..self.registry.local(self.index) };
                self.out.local.store(Arc::new(local));
                self.publish_callers();
            }
            self.out.changes.send_replace(self.index);
            self.publish_at = Instant::now() + PUBLISH_INTERVAL.max(begun.elapsed() * PUBLISH_COST_FACTOR);
        }
        if begun >= self.tell_counts_at {
            self.tell_counts_at = begun + COUNTS_INTERVAL;
            self.tell_counts();
        }
        if !self.dirty {
            self.foreign_unpublished = false;
            self.quarantine.clear();
        }
        if !self.dirty && !self.local_dirty {
            self.tell_answers();
        }
    }

    /// True while what other hosts have said is about to be published: it is passed on only then. Where publications are far
    /// apart, because they are dear, it does not wait for more than the usual distance.
    pub(super) fn awaits_publication(&self) -> bool {
        self.foreign_unpublished && self.publish_at.saturating_duration_since(Instant::now()) <= PUBLISH_INTERVAL
    }

    /// Of services that this host's certificate grants: another host would refuse the rest.
    fn publish_callers(&self) {
        let mut rules = self.registry.caller_rules();
        rules.retain(|rule| self.gate.grants(self.local, &rule.service));
        let callers = Callers::new(rules);
        if callers != **self.out.callers.load() {
            self.out.callers.store(Arc::new(callers));
        }
    }

    fn publish_directory(&mut self, freshness: Freshness) {
        let members = self
            .swim
            .members()
            .map(|member| (member.node, Membership { state: member.state, incarnation: member.incarnation }));
        let sources = Sources {
            local: self.local,
            index: self.index,
            freshness,
            facts: &self.facts,
            members: &members.collect(),
            unreachable: &self.unreachable,
            instances: &self.instances,
            intentions: self.policies.compiled(),
            traffic: self.policies.traffic.compiled(),
        };
        #[cfg(test)]
        self.instances.keys().for_each(|(_, id)| assert!(id != "poison-publish", "the poison works"));
        let directory = build(&sources, &mut self.vips, &self.out.directory.load());
        self.out.directory.store(Arc::new(directory));
        self.tally.published += 1;
        if let Some(vips) = self.vips.take_changes() {
            self.out.store.save_vips(vips);
        }
    }

    fn tell_counts(&mut self) {
        self.tally.health_score = self.swim.health_score();
        self.tally.patience = self.swim.patience_factor();
        self.tally.accusations_withheld = self.swim.accusations_withheld();
        self.tally.refused = self.gate.refusals();
        self.tally.catalog = self.catalog.counters();
        self.tally.store_failures = self.out.store.failures();
        self.tally.quarantined = (self.quarantine.count(), self.quarantine.refused);
        self.tally.quarantine = self.quarantine.told();
        self.tally.coalesced = self.pace.coalesced;
        self.out.tally.send_replace(self.tally.clone());
    }

    fn freshness(&self) -> Freshness {
        let others = self.swim.members().any(|member| member.node != self.local);
        let alone = self.alone_is_live && !self.has_foreign_records && !others;
        let live = self.swim.in_contact() || alone;
        if live { Freshness::Live } else { Freshness::Stale }
    }

    /// What a person would want to know at a glance.
    pub(in crate::agent) fn summary(&self) -> String {
        let directory = self.out.directory.load();
        let alive = directory.nodes.values().filter(|node| node.state == MemberState::Alive).count();
        let freshness = match directory.freshness {
            Freshness::Live => "in contact",
            Freshness::Stale => "no contact with other hosts, showing what was last known",
        };
        format!("{alive} of {} hosts alive, {} services, {freshness}", directory.nodes.len(), directory.services.len())
    }
}
