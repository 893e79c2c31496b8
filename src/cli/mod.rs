//! One file a verb, and a typed API client.
