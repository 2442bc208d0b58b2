//! What was asked of a key, and what was told.

use std::fmt;

/// How a put joins what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Overwrite,
    Add,
    Append,
    Prepend,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Get,
    /// The bytes, and the generation that was demanded.
    Put(Mode, String, Option<u64>),
    Delete(Option<u64>),
}

/// What was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The value and its generation.
    Value(String, u64),
    Absent,
    /// A condition did not hold.
    Refused,
    /// It was written, under this generation.
    Written(u64),
    Deleted,
    /// Nothing: it may have happened between its two times, or never.
    Nothing,
}

/// An operation on one key. Times are nanoseconds of one clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) client: u64,
    pub(crate) asked: Asked,
    pub(crate) told: Told,
    pub(crate) began: u64,
    /// When the answer was there, or after which it cannot happen any more.
    pub(crate) ended: u64,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (began, ended) = (self.began / 1000, self.ended / 1000);
        let client = self.client;
        write!(f, "{began:>10} to {ended:>10} us  client {client}: ")?;
        match &self.asked {
            Asked::Get => write!(f, "get")?,
            Asked::Put(mode, value, None) => write!(f, "put {mode:?} {value:?}")?,
            Asked::Put(mode, value, Some(g)) => write!(f, "put {mode:?} {value:?} if {g}")?,
            Asked::Delete(None) => write!(f, "delete")?,
            Asked::Delete(Some(g)) => write!(f, "delete if {g}")?,
        }
        match &self.told {
            Told::Value(value, generation) => write!(f, " -> {value:?} of {generation}"),
            Told::Written(generation) => write!(f, " -> written as {generation}"),
            Told::Absent | Told::Refused | Told::Deleted | Told::Nothing => {
                write!(f, " -> {:?}", self.told)
            }
        }
    }
}
