//! Who is calling: asks the kernel which program made the socket at the other end of a connection of this host.
//!
//! Asked is sock_diag (`diag`), which gives the user and the control group's id; `cgroup` knows the groups by their ids.
//! Where netlink is not to be had, `/proc/self/net/tcp` gives the user alone (`table`). Only a live socket says anything.
//! What the program is called is decided elsewhere: by the rules of [`crate::model::Callers`].

mod cgroup;
mod diag;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;

use tracing::{debug, warn};

use self::cgroup::Cgroups;
use self::diag::{Diag, SocketOwner, Tuple};
use crate::model::Program;

/// What all threads that ask share: the control groups as they are known.
#[derive(Debug, Clone)]
pub struct Groups(Arc<Cgroups>);

impl Groups {
    /// Finds the control groups of this host.
    pub fn find() -> Groups {
        Groups(Arc::new(Cgroups::find()))
    }
}

/// Asks the kernel. One thread's.
#[derive(Debug)]
pub struct Attestor {
    diag: Option<Diag>,
    groups: Groups,
}

impl Attestor {
    /// Opens what is asked with.
    pub fn open(groups: Groups) -> Attestor {
        let diag = Diag::open().inspect_err(|error| {
            warn!(
                %error,
                "the kernel does not say whose a socket is (netlink, sock_diag): programs are told apart by their users \
                 alone, from /proc/self/net/tcp; allow AF_NETLINK to the agent and load the module tcp_diag"
            );
        });
        Attestor { diag: diag.ok(), groups }
    }

    /// The program whose socket has `local` as its own address and `remote` as the one it called. `None` if there is no
    /// such socket in this network namespace, or its program has closed it.
    pub async fn program(&self, local: SocketAddr, remote: SocketAddr) -> Option<Program> {
        let tuple = Tuple { local, remote };
        let owner = match &self.diag {
            Some(diag) => diag.ask(tuple).unwrap_or_else(|error| {
                debug!(%error, %local, %remote, "the kernel was asked whose a socket is, and did not say");
                None
            }),
            None => tokio::task::spawn_blocking(move || table::find(tuple)).await.ok().flatten(),
        };
        let SocketOwner { uid, cgroup } = owner?;
        let cgroup = match cgroup {
            Some(id) => self.groups.0.path(id).await,
            None => None,
        };
        Some(Program { uid, cgroup })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn without_netlink_a_program_is_known_by_its_user_while_its_socket_is_open() {
        let attestor = Attestor { diag: None, groups: Groups::find() };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(attestor.program(local, remote).await, Some(Program { uid, cgroup: None }));
        drop(client);
        assert_eq!(attestor.program(local, remote).await, None);
    }
}
