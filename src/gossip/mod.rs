//! Sockets that drive membership and catalog.
