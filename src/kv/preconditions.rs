//! What a write to an item does, as a function of what is there: pure, and tested for every case
//! (contract.md, sections 3.2, 3.3, 7 and 11.1).

use super::Error;

/// What is under a key at the moment of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Current {
    /// Nothing.
    Absent,
    /// An item whose time is over; its record is still there.
    Expired,
    /// An item.
    Live {
        /// Its generation.
        generation: u64,
    },
}

impl Current {
    /// What a record with this version and time of expiry (0: never) is at `now`.
    pub fn of(found: Option<(u64, u64)>, now: u64) -> Current {
        match found {
            None => Current::Absent,
            Some((_, expires_at)) if expires_at > 0 && expires_at <= now => Current::Expired,
            Some((version, _)) => Current::Live { generation: version },
        }
    }
}

/// How a put treats what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutMode {
    /// Replaces it.
    #[default]
    Overwrite,
    /// Demands that there is nothing.
    Add,
    /// Puts the new value behind it.
    Append,
    /// Puts the new value before it.
    Prepend,
}

/// What becomes of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// The new value alone.
    Replace,
    /// What is there, then the new value.
    Append,
    /// The new value, then what is there.
    Prepend,
}

/// Decides a put.
///
/// # Errors
/// [`Error::Precondition`] when `add` or the generation forbids it. Generation 0 demands that
/// there is nothing.
pub fn put(current: Current, mode: PutMode, if_generation: Option<u64>) -> Result<Combine, Error> {
    let found = match current {
        Current::Absent | Current::Expired => 0,
        Current::Live { generation } => generation,
    };
    if if_generation.is_some_and(|wanted| wanted != found) {
        return Err(Error::Precondition);
    }
    match mode {
        PutMode::Add if found != 0 => Err(Error::Precondition),
        PutMode::Append if found != 0 => Ok(Combine::Append),
        PutMode::Prepend if found != 0 => Ok(Combine::Prepend),
        PutMode::Overwrite | PutMode::Add | PutMode::Append | PutMode::Prepend => {
            Ok(Combine::Replace)
        }
    }
}

/// What a delete does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Removes the record.
    Remove,
    /// Nothing, successfully.
    Nothing,
}

/// Decides a delete.
///
/// # Errors
/// [`Error::NoItem`] when there is nothing and `force` is not set; [`Error::Precondition`] when
/// the generation is another.
pub fn delete(current: Current, force: bool, if_generation: Option<u64>) -> Result<Removal, Error> {
    match (current, if_generation) {
        (Current::Absent, _) if force => Ok(Removal::Nothing),
        (Current::Absent, _) => Err(Error::NoItem),
        (Current::Expired, Some(_)) => Err(Error::Precondition),
        (Current::Live { generation }, Some(wanted)) if wanted != generation => {
            Err(Error::Precondition)
        }
        (Current::Expired, None) | (Current::Live { .. }, _) => Ok(Removal::Remove),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: Current = Current::Live { generation: 7 };
    const GONE: [Current; 2] = [Current::Absent, Current::Expired];

    #[test]
    fn every_put_on_nothing_writes_the_value_unless_a_generation_is_demanded() {
        for current in GONE {
            for mode in [PutMode::Overwrite, PutMode::Add, PutMode::Append, PutMode::Prepend] {
                for demanded in [None, Some(0)] {
                    assert_eq!(put(current, mode, demanded), Ok(Combine::Replace));
                }
                assert_eq!(put(current, mode, Some(7)), Err(Error::Precondition));
            }
        }
    }

    #[test]
    fn every_put_on_an_item_heeds_mode_and_generation() {
        let table = [
            (PutMode::Overwrite, Ok(Combine::Replace)),
            (PutMode::Add, Err(Error::Precondition)),
            (PutMode::Append, Ok(Combine::Append)),
            (PutMode::Prepend, Ok(Combine::Prepend)),
        ];
        for (mode, answer) in table {
            for demanded in [None, Some(7)] {
                assert_eq!(put(LIVE, mode, demanded), answer);
            }
            for other in [0, 6, 8, u64::MAX] {
                assert_eq!(put(LIVE, mode, Some(other)), Err(Error::Precondition));
            }
        }
    }

    #[test]
    fn every_delete_is_decided() {
        for demanded in [None, Some(0), Some(7)] {
            assert_eq!(delete(Current::Absent, true, demanded), Ok(Removal::Nothing));
            assert_eq!(delete(Current::Absent, false, demanded), Err(Error::NoItem));
        }
        for force in [true, false] {
            assert_eq!(delete(Current::Expired, force, None), Ok(Removal::Remove));
            assert_eq!(delete(Current::Expired, force, Some(7)), Err(Error::Precondition));
            assert_eq!(delete(LIVE, force, None), Ok(Removal::Remove));
            assert_eq!(delete(LIVE, force, Some(7)), Ok(Removal::Remove));
            assert_eq!(delete(LIVE, force, Some(8)), Err(Error::Precondition));
        }
    }

    #[test]
    fn an_item_is_gone_at_the_microsecond_of_its_expiry() {
        assert_eq!(Current::of(Some((7, 100)), 99), LIVE);
        assert_eq!(Current::of(Some((7, 100)), 100), Current::Expired);
        assert_eq!(Current::of(Some((7, 0)), u64::MAX), LIVE);
        assert_eq!(Current::of(None, 0), Current::Absent);
    }
}
