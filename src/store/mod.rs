//! What survives a restart: the catalog cache, registrations, counters.
