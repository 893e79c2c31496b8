//! This host's part in the life of the CA: its certificate is renewed from one third of its life, by whichever issuer answers; the
//! roots that the cluster decides for are believed without a restart; and a host that the cluster makes an issuer becomes one.
//! While no issuer answers everything goes on until expiry, loudly, and comes back by itself when one does.
//!
//! What the cluster decides comes in with the directory; a renewed identity goes out to the owner, and to every TLS
//! configuration by itself.

use std::hash::{DefaultHasher, Hasher as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::identity::{
    Identity, IdentityError, TlsContexts, Voucher, become_issuer, issuer_of, issues_under, renew, replace_roots,
    root_of,
};
use crate::model::{Directory, Intentions, MemberState, NodeId, Trust};

/// The certificate is looked at this often at least: clocks are set, and suspended machines wake.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);
/// An issuer that did not answer is asked again after this part of the certificate's life ...
const RETRY_PART: u32 = 24;
/// ... but not sooner than this, and not later than the interval above.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// What the cluster wants changed is tried again after this time.
const FOLLOW_RETRY: Duration = Duration::from_secs(5);
/// Hosts that renew because the cluster says so do it one after another: so much time for each of them ...
const SPREAD_PER_HOST: Duration = Duration::from_millis(10);
/// ... up to this. An issuer signs some hundred certificates a second.
const SPREAD_MAX: Duration = Duration::from_secs(60);

/// An identity that has taken the place of the one before.
pub(super) struct Renewed {
    pub(super) identity: Arc<Identity>,
    /// Of an issuer's host.
    pub(super) voucher: Option<Voucher>,
}

pub(super) struct Renewal {
    renewed: mpsc::Receiver<Renewed>,
}

impl Renewal {
    /// Watches over the certificate in a task of its own.
    pub(super) fn start(
        identity: Arc<Identity>,
        data_dir: PathBuf,
        tls: TlsContexts,
        directory: Arc<ArcSwap<Directory>>,
        changed: watch::Receiver<u64>,
    ) -> Renewal {
        let (out, renewed) = mpsc::channel(1);
        let keeper =
            Keeper { identity, data_dir, tls, directory, changed, out, settled: None, renew_at: None, follow_at: None };
        tokio::spawn(keeper.keep());
        Renewal { renewed }
    }

    /// The next renewed identity; every listener presents it already.
    pub(super) async fn next(&mut self) -> Option<Renewed> {
        self.renewed.recv().await
    }
}

struct Keeper {
    identity: Arc<Identity>,
    data_dir: PathBuf,
    tls: TlsContexts,
    directory: Arc<ArcSwap<Directory>>,
    changed: watch::Receiver<u64>,
    out: mpsc::Sender<Renewed>,
    /// What the cluster had decided when this host was last found to be as that wants it.
    settled: Option<Arc<Intentions>>,
    /// Not before then, after a try that failed.
    renew_at: Option<Instant>,
    /// The same of what the cluster wants changed.
    follow_at: Option<Instant>,
}

/// The owner has ended.
struct Ended;

impl Keeper {
    async fn keep(mut self) {
        loop {
            let directory = self.directory.load_full();
            if self.follow(&directory).await.is_err() || self.keep_certificate(&directory).await.is_err() {
                return;
            }
            let now = SystemTime::now();
            let due = self.identity.renewal_due_at().duration_since(now).unwrap_or_default().min(CHECK_INTERVAL);
            let due = self.renew_at.unwrap_or_else(Instant::now).max(Instant::now() + due);
            let next = self.follow_at.map_or(due, |at| at.min(due));
            tokio::select! {
                () = sleep_until(next) => {}
                decided = decided(&mut self.changed, &self.directory, &directory.intentions) => {
                    if decided.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Does what the cluster has decided: roots, issuing, and certificates that lead elsewhere than they should.
    async fn follow(&mut self, directory: &Directory) -> Result<(), Ended> {
        let intentions = &directory.intentions;
        if self.settled.as_ref().is_some_and(|settled| Arc::ptr_eq(settled, intentions)) {
            return Ok(());
        }
        let Some(trust) = intentions.trust() else {
            self.settled = Some(intentions.clone());
            return Ok(());
        };
        let now = Instant::now();
        if self.follow_at.is_some_and(|at| at > now) {
            return Ok(());
        }
        let mut done = self.follow_roots(trust).await?;
        done &= self.follow_role(trust, directory).await;
        if let Some(why) = self.misled(trust) {
            // Not all of a fleet at once; a host's turn is always the same.
            let spread = SPREAD_PER_HOST.saturating_mul(u32::try_from(directory.nodes.len()).unwrap_or(u32::MAX));
            let turn = spread.min(SPREAD_MAX).mul_f64(part_of(self.identity.node));
            if self.follow_at.is_none() && done {
                self.follow_at = Some(now + turn);
                return Ok(());
            }
            // The issuer that answered may not have followed yet.
            done &= self.renew(directory, why).await? && self.misled(trust).is_none();
        }
        self.follow_at = (!done).then_some(now + FOLLOW_RETRY);
        if done {
            self.settled = Some(intentions.clone());
        }
        Ok(())
    }

    /// Believes the roots that the cluster believes. True if that is so.
    async fn follow_roots(&mut self, trust: &Trust) -> Result<bool, Ended> {
        if self.identity.roots().eq(trust.roots.iter().map(Vec::as_slice)) {
            return Ok(true);
        }
        if let Err(error) = replace_roots(&self.data_dir, trust.roots.clone()).await {
            warn!(%error, "the roots that the cluster has decided for are not taken over");
            return Ok(false);
        }
        info!(roots = trust.roots.len(), "the roots that the cluster has decided for are believed");
        self.take_over().await
    }

    /// Becomes an issuer, or one under the root that is in use now. True if there is nothing to become.
    async fn follow_role(&self, trust: &Trust, directory: &Directory) -> bool {
        let (Some(keeper), Some(root)) = (trust.issuers.first(), trust.roots.first()) else { return true };
        let wanted = trust.issuers.contains(&self.identity.node) && *keeper != self.identity.node;
        if !wanted || issues_under(&self.identity, &self.data_dir, root) {
            return true;
        }
        let Some(address) = directory.nodes.get(keeper).map(|node| node.facts.mesh) else {
            warn!(%keeper, "this host is to issue certificates, and the one that keeps the root's key is not known");
            return false;
        };
        match become_issuer(&self.data_dir, address).await {
            Ok(()) => {
                info!("this host issues certificates from now on");
                true
            }
            Err(error) => {
                warn!(%error, "this host is to issue certificates and could not be made an issuer");
                false
            }
        }
    }

    /// Why this host's certificate is not as the cluster wants it.
    fn misled(&self, trust: &Trust) -> Option<&'static str> {
        if root_of(&self.identity.certificates, &trust.roots) != Some(0) {
            return Some("the cluster has another root");
        }
        let issuer = issuer_of(&self.identity.certificates)?;
        let own = trust.issuers.contains(&self.identity.node) && issuer != self.identity.node;
        // An issuer certifies itself, which shows everybody that it does.
        (own || !trust.issuers.contains(&issuer)).then_some("its issuer issues no more")
    }

    /// Renews when it is time.
    async fn keep_certificate(&mut self, directory: &Directory) -> Result<(), Ended> {
        let now = SystemTime::now();
        if now < self.identity.renewal_due_at() || self.renew_at.is_some_and(|at| at > Instant::now()) {
            return Ok(());
        }
        if now >= self.identity.not_after {
            error!(
                "the node certificate has expired: no call crosses the mesh until an issuer answers, or the host enrols again"
            );
        }
        self.renew(directory, "a third of its life is over").await?;
        let life = self.identity.not_after.duration_since(self.identity.not_before).unwrap_or_default();
        let pause = (life / RETRY_PART).clamp(RETRY_MIN, CHECK_INTERVAL);
        // Also after one that worked: a certificate that ends with its CA's may be due as soon as it is there.
        self.renew_at = Some(Instant::now() + pause);
        Ok(())
    }

    /// Asks one issuer after another. True if one has renewed the certificate.
    async fn renew(&mut self, directory: &Directory, why: &'static str) -> Result<bool, Ended> {
        let days = days_left(&self.identity);
        for issuer in self.issuers(directory) {
            match renew(&self.data_dir, issuer).await {
                Ok(_) => {
                    let taken = self.take_over().await?;
                    info!(why, days = days_left(&self.identity), "the node certificate is renewed");
                    return Ok(taken);
                }
                Err(error) => {
                    warn!(%error, days, "the node certificate could not be renewed; calls end when it expires");
                }
            }
        }
        Ok(false)
    }

    /// Whom to ask: `None` is this host itself, or, where nothing is known, the issuer that it enrolled with.
    fn issuers(&self, directory: &Directory) -> Vec<Option<SocketAddr>> {
        let (me, trust) = (self.identity.node, directory.intentions.trust());
        let named: Vec<NodeId> = match trust {
            Some(trust) => trust.issuers.clone(),
            None => issuer_of(&self.identity.certificates).into_iter().collect(),
        };
        if named.contains(&me) {
            return vec![None];
        }
        let mut known: Vec<_> = named.iter().filter_map(|node| directory.nodes.get(node)).collect();
        // Those who answer and are under the right root first; among them another order for each host.
        known.sort_by_cached_key(|node| {
            let is_behind = trust.is_some_and(|trust| root_of(&node.facts.certificates, &trust.roots) != Some(0));
            (node.state != MemberState::Alive, is_behind, hash_of((me, node.id)))
        });
        let mut asked: Vec<Option<SocketAddr>> = known.into_iter().map(|node| Some(node.facts.mesh)).collect();
        // Where it last was is worth a try as well.
        if !asked.contains(&self.identity.issuer) || asked.is_empty() {
            asked.push(self.identity.issuer);
        }
        asked
    }

    /// The identity on disk is in force from now on. True if it could be read.
    async fn take_over(&mut self) -> Result<bool, Ended> {
        let taken = self.identity.reload(&self.data_dir).and_then(|fresh| self.tls.replace(&fresh).map(|()| fresh));
        match taken {
            Ok(fresh) => self.identity = Arc::new(fresh),
            Err(error) => {
                error!(%error, "the renewed identity cannot be used");
                return Ok(false);
            }
        }
        let renewed = Renewed { identity: self.identity.clone(), voucher: self.voucher() };
        self.out.send(renewed).await.map_err(|_| Ended)?;
        Ok(true)
    }

    fn voucher(&self) -> Option<Voucher> {
        let made: Result<_, IdentityError> = Voucher::make(&self.data_dir, &self.identity.cluster);
        made.unwrap_or_else(|error| {
            warn!(%error, "this issuer cannot vouch for policies");
            None
        })
    }
}

/// Ends when the cluster has decided something.
async fn decided(
    changed: &mut watch::Receiver<u64>,
    directory: &ArcSwap<Directory>,
    before: &Arc<Intentions>,
) -> Result<(), watch::error::RecvError> {
    while Arc::ptr_eq(before, &directory.load().intentions) {
        changed.changed().await?;
    }
    Ok(())
}

fn hash_of(value: impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A host's place between 0 and 1.
fn part_of(node: NodeId) -> f64 {
    f64::from(u16::try_from(hash_of(node) & 0xffff).unwrap_or(0)) / f64::from(u16::MAX)
}

fn days_left(identity: &Identity) -> u64 {
    identity.not_after.duration_since(SystemTime::now()).map_or(0, |left| left.as_secs() / (24 * 3600))
}
