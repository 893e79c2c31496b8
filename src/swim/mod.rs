//! Membership: the SWIM state machine. Pure.
