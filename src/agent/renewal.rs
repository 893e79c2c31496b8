//! The node certificate's life: renewed from one third of it, from the issuer that made it, and taken over by every
//! listener without a restart. While no issuer answers, everything goes on until expiry, loudly.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::identity::{Identity, TlsContexts, renew};

/// How often the certificate is looked at, and an issuer that did not answer is asked again.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);

pub(super) struct Renewal {
    renewed: mpsc::Receiver<Arc<Identity>>,
}

impl Renewal {
    /// Watches over the certificate in a task of its own.
    pub(super) fn start(identity: Arc<Identity>, data_dir: PathBuf, tls: TlsContexts) -> Renewal {
        let (sender, renewed) = mpsc::channel(1);
        tokio::spawn(keep(identity, data_dir, tls, sender));
        Renewal { renewed }
    }

    /// The next renewed identity; every listener presents it already.
    pub(super) async fn next(&mut self) -> Option<Arc<Identity>> {
        self.renewed.recv().await
    }
}

async fn keep(mut identity: Arc<Identity>, data_dir: PathBuf, tls: TlsContexts, renewed: mpsc::Sender<Arc<Identity>>) {
    loop {
        if SystemTime::now() < identity.renewal_due_at() {
            sleep(CHECK_INTERVAL).await;
            continue;
        }
        if SystemTime::now() >= identity.not_after {
            error!(
                "the node certificate has expired: no call crosses the mesh until it is renewed or the host enrols again"
            );
        }
        match renew(&data_dir, None).await.and_then(|_| Identity::load(&data_dir)) {
            Ok(fresh) => {
                tls.replace_certificate(&fresh);
                info!(days = days_left(&fresh), "the node certificate is renewed");
                identity = Arc::new(fresh);
                if renewed.send(identity.clone()).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, days = days_left(&identity), "the node certificate could not be renewed; calls end when it expires");
                sleep(CHECK_INTERVAL).await;
            }
        }
    }
}

fn days_left(identity: &Identity) -> u64 {
    identity.not_after.duration_since(SystemTime::now()).map_or(0, |left| left.as_secs() / (24 * 3600))
}
