//! Choosing: which instance takes a call. Pure.
