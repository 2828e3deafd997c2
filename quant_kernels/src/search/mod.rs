//! The few searches that all formats share.
