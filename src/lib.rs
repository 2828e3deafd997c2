//! quantpress.
