//! What the shim must do, told from outside: bytes in, bytes out.

mod answers;
mod fleet;
mod forwarding;
mod hostile;
mod servers;
