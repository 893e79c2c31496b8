//! How much each origin may say: a bucket of tokens for what comes fresh, and a pause after what was pulled.
//!
//! One host gone mad must not cost every other host its processor and its network. What is over the rate is dropped
//! before its signature is checked; it is not lost, because digests find the newest version once the host is calm, or when
//! its pause has passed. Only records whose signature was good are charged, so nobody can spend another host's tokens.

use std::collections::BTreeMap;

use super::Config;
use crate::model::{NodeId, Now, Record};

/// A record costs one token, and one more for each of these bytes.
const TOKEN_BYTES: usize = 1_024;
/// An origin is named once in so long.
const NAME_AGAIN: Now = Now::from_secs(600);

#[derive(Debug, Clone, Copy)]
struct Spent {
    /// Tokens gone from a full bucket, as of `at`.
    tokens: f64,
    at: Now,
    /// No pull of this origin before.
    pull_at: Now,
    named: Option<Now>,
}

/// See the module's text. Only origins that spoke lately have an entry.
#[derive(Debug, Default)]
pub(super) struct Pace {
    spent: BTreeMap<NodeId, Spent>,
}

impl Pace {
    /// True if another fresh record of `origin` may be taken.
    pub(super) fn is_within(&self, now: Now, origin: NodeId, config: &Config) -> bool {
        let spent = self.spent.get(&origin).map_or(0.0, |spent| tokens(spent, now, config));
        spent + 1.0 <= f64::from(config.origin_burst)
    }

    /// False while an origin that changed much by the last pull is not to be pulled again.
    pub(super) fn may_pull(&self, now: Now, origin: NodeId) -> bool {
        self.spent.get(&origin).is_none_or(|spent| now >= spent.pull_at)
    }

    /// A fresh record was merged.
    pub(super) fn charge(&mut self, now: Now, record: &Record, config: &Config) {
        let spent = self.entry(now, record.origin(), config);
        spent.tokens = (spent.tokens + cost(record)).min(f64::from(config.origin_burst));
    }

    /// A record that took the place of another came by a pull.
    pub(super) fn charge_pull(&mut self, now: Now, record: &Record, config: &Config) {
        let spent = self.entry(now, record.origin(), config);
        let pause = Now::from_secs_f64(cost(record) / f64::from(config.origin_rate));
        spent.pull_at = (spent.pull_at.max(now) + pause).min(now + config.origin_pause_max);
    }

    /// True if this origin's being over its rate is news.
    pub(super) fn is_news(&mut self, now: Now, origin: NodeId, config: &Config) -> bool {
        let spent = self.entry(now, origin, config);
        let news = spent.named.is_none_or(|named| now >= named + NAME_AGAIN);
        if news {
            spent.named = Some(now);
        }
        news
    }

    fn entry(&mut self, now: Now, origin: NodeId, config: &Config) -> &mut Spent {
        let spent = self.spent.entry(origin).or_insert(Spent { tokens: 0.0, at: now, pull_at: Now::ZERO, named: None });
        spent.tokens = tokens(spent, now, config);
        spent.at = spent.at.max(now);
        spent
    }

    /// Forgets those that have all their tokens again.
    pub(super) fn tick(&mut self, now: Now, config: &Config) {
        let is_full = |spent: &Spent| tokens(spent, now, config) <= 0.0 && now >= spent.pull_at;
        let is_news_again = |spent: &Spent| spent.named.is_none_or(|named| now >= named + NAME_AGAIN);
        self.spent.retain(|_, spent| !is_full(spent) || !is_news_again(spent));
    }
}

fn tokens(spent: &Spent, now: Now, config: &Config) -> f64 {
    let back = now.saturating_sub(spent.at).as_secs_f64() * f64::from(config.origin_rate);
    (spent.tokens - back).max(0.0)
}

fn cost(record: &Record) -> f64 {
    1.0 + f64::from(u32::try_from(record.encoded().len() / TOKEN_BYTES).unwrap_or(u32::MAX))
}
