//! CA, join tokens, node certificates, TLS configurations.
