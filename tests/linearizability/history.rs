//! The operations that make up a history.

use std::fmt;

/// How a put combines its bytes with an existing value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Overwrite,
    Add,
    Append,
    Prepend,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Invocation {
    Get,
    /// The mode, the bytes and the value of if-generation-match.
    Put(Mode, String, Option<u64>),
    Delete(Option<u64>),
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// The value and its generation.
    Value(String, u64),
    Absent,
    /// A precondition failed.
    Rejected,
    /// The generation of the write.
    Written(u64),
    Deleted,
    /// There is no response. The operation may have taken effect after its invocation, or not at
    /// all.
    Unknown,
}

/// An operation on a key. All times are in nanoseconds and from the same clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) client: u64,
    pub(crate) invocation: Invocation,
    pub(crate) response: Response,
    pub(crate) invoked_at: u64,
    /// The time at which the response arrived. Without a response, the time after which the
    /// operation cannot take effect.
    pub(crate) returned_at: u64,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (invoked_at, returned_at) = (self.invoked_at / 1000, self.returned_at / 1000);
        let client = self.client;
        write!(f, "{invoked_at:>10} to {returned_at:>10} us  client {client}: ")?;
        match &self.invocation {
            Invocation::Get => write!(f, "get")?,
            Invocation::Put(mode, value, None) => write!(f, "put {mode:?} {value:?}")?,
            Invocation::Put(mode, value, Some(g)) => write!(f, "put {mode:?} {value:?} if {g}")?,
            Invocation::Delete(None) => write!(f, "delete")?,
            Invocation::Delete(Some(g)) => write!(f, "delete if {g}")?,
        }
        match &self.response {
            Response::Value(value, generation) => write!(f, " -> {value:?} of {generation}"),
            Response::Written(generation) => write!(f, " -> written as {generation}"),
            Response::Absent | Response::Rejected | Response::Deleted | Response::Unknown => {
                write!(f, " -> {:?}", self.response)
            }
        }
    }
}
