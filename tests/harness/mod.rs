//! The durability harness that the `crash` and `power_loss` suites share.
//!
//! [`workload`] writes through the API and records every operation in a [`journal`]. [`checker`]
//! reads the store and compares it with the journals, however the server was stopped.
//! [`fault_shim`] injects I/O faults into the unmodified binary.
#![allow(dead_code, reason = "not every suite uses all of it")]

pub(crate) mod checker;
pub(crate) mod fault_shim;
pub(crate) mod journal;
pub(crate) mod preload;
pub(crate) mod random;
pub(crate) mod tagged_value;
pub(crate) mod workload;
