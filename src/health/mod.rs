//! Check runners.
