//! `steadfast openapi`: prints the OpenAPI description of the API.

use super::error::local_exit_status;
use super::output::Output;
use super::runtime::finish;
use crate::wire;
use std::process::ExitCode;

pub(super) const HELP: &str = concat!(
    "\
Examples:
  steadfast openapi > steadfast.json
  steadfast openapi | jq '.paths | keys'

Every server also returns this document at /_/openapi.json; the request needs no token.",
    local_exit_status!()
);

pub(super) fn run() -> ExitCode {
    let mut out = Output::new();
    finish(out.bytes(wire::OPENAPI).and_then(|()| out.flush()))
}
