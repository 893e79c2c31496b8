//! A worker's scratch memory: received ciphertext and application data pass through it, so that idle connections hold
//! no buffers of their own. Borrowed only between two awaits.

use std::cell::{RefCell, RefMut};

use crate::wire::frame::{DATA_BYTES_MAX, HEADER_BYTES};

/// 64 KiB by one system call, and the start of a record left over from the one before (at most 16 KiB and its header).
const NETWORK_BYTES: usize = 64 * 1024 + 17 * 1024;

pub(super) struct Scratch {
    network: RefCell<Vec<u8>>,
    application: RefCell<Vec<u8>>,
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch {
            network: RefCell::new(vec![0; NETWORK_BYTES]),
            application: RefCell::new(vec![0; HEADER_BYTES + DATA_BYTES_MAX]),
        }
    }

    /// Where ciphertext is received.
    pub(super) fn network(&self) -> RefMut<'_, Vec<u8>> {
        self.network.borrow_mut()
    }

    /// Where application data is read, with room for a frame header in front.
    pub(super) fn application(&self) -> RefMut<'_, Vec<u8>> {
        self.application.borrow_mut()
    }
}
