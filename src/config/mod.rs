//! Raw files to checked configuration, all errors at once.
