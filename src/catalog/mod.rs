//! Replicated records: single-writer logs, digests, deltas, repair. Pure.
