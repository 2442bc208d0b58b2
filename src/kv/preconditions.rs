//! Decision tables for puts and deletes, as pure functions of the item's state (docs/contract.md
//! sections 3.2, 3.3, 7 and 11.1).

use super::{Error, Result};

/// The state of an item at the time of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemState {
    /// The item has no record.
    Absent,
    /// The item has expired, but its record still exists.
    Expired,
    /// The item exists.
    Live {
        /// The item's generation.
        generation: u64,
    },
}

impl ItemState {
    /// Returns the state of an item at time `now`. `found` is its generation and its expiry time (0
    /// if it never expires), or `None` if the item has no record.
    pub fn of(found: Option<(u64, u64)>, now: u64) -> ItemState {
        match found {
            None => ItemState::Absent,
            Some((_, expires_at)) if expires_at > 0 && expires_at <= now => ItemState::Expired,
            Some((generation, _)) => ItemState::Live { generation },
        }
    }
}

/// How a put treats an existing item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutMode {
    /// Replaces the item.
    #[default]
    Overwrite,
    /// Requires that the item does not exist.
    Add,
    /// Appends to the existing value.
    Append,
    /// Prepends to the existing value.
    Prepend,
}

/// The value that a put writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutAction {
    /// The new value.
    Replace,
    /// The existing value followed by the new one.
    Append,
    /// The new value followed by the existing one.
    Prepend,
}

/// Decides the action of a put.
///
/// # Errors
/// Returns [`Error::Precondition`] if the item exists and the mode is [`PutMode::Add`], or if the
/// item does not have the generation `if_generation`. A required generation of 0 means that the
/// item must not exist.
pub fn put(state: ItemState, mode: PutMode, if_generation: Option<u64>) -> Result<PutAction> {
    let generation = match state {
        ItemState::Absent | ItemState::Expired => 0,
        ItemState::Live { generation } => generation,
    };
    if if_generation.is_some_and(|required| required != generation) {
        return Err(Error::Precondition);
    }
    match mode {
        PutMode::Add if generation != 0 => Err(Error::Precondition),
        PutMode::Append if generation != 0 => Ok(PutAction::Append),
        PutMode::Prepend if generation != 0 => Ok(PutAction::Prepend),
        PutMode::Overwrite | PutMode::Add | PutMode::Append | PutMode::Prepend => {
            Ok(PutAction::Replace)
        }
    }
}

/// The action of a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteAction {
    /// Remove the record.
    Remove,
    /// Succeed without writing anything.
    Nothing,
}

/// Decides the action of a delete.
///
/// # Errors
/// Returns [`Error::NoItem`] if the item has no record and `force` is not set. Returns
/// [`Error::Precondition`] if the item has a record but not the generation `if_generation`.
pub fn delete(state: ItemState, force: bool, if_generation: Option<u64>) -> Result<DeleteAction> {
    match (state, if_generation) {
        (ItemState::Absent, _) if force => Ok(DeleteAction::Nothing),
        (ItemState::Absent, _) => Err(Error::NoItem),
        (ItemState::Expired, Some(_)) => Err(Error::Precondition),
        (ItemState::Live { generation }, Some(required)) if required != generation => {
            Err(Error::Precondition)
        }
        (ItemState::Expired, None) | (ItemState::Live { .. }, _) => Ok(DeleteAction::Remove),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: ItemState = ItemState::Live { generation: 7 };
    const GONE: [ItemState; 2] = [ItemState::Absent, ItemState::Expired];

    #[test]
    fn a_put_of_a_missing_item_fails_only_if_it_requires_a_nonzero_generation() {
        for state in GONE {
            for mode in [PutMode::Overwrite, PutMode::Add, PutMode::Append, PutMode::Prepend] {
                for required in [None, Some(0)] {
                    assert_eq!(put(state, mode, required), Ok(PutAction::Replace));
                }
                assert_eq!(put(state, mode, Some(7)), Err(Error::Precondition));
            }
        }
    }

    #[test]
    fn a_put_of_an_existing_item_depends_on_mode_and_generation() {
        let table = [
            (PutMode::Overwrite, Ok(PutAction::Replace)),
            (PutMode::Add, Err(Error::Precondition)),
            (PutMode::Append, Ok(PutAction::Append)),
            (PutMode::Prepend, Ok(PutAction::Prepend)),
        ];
        for (mode, expected) in table {
            for required in [None, Some(7)] {
                assert_eq!(put(LIVE, mode, required), expected);
            }
            for other in [0, 6, 8, u64::MAX] {
                assert_eq!(put(LIVE, mode, Some(other)), Err(Error::Precondition));
            }
        }
    }

    #[test]
    fn a_delete_depends_on_state_force_and_generation() {
        for required in [None, Some(0), Some(7)] {
            assert_eq!(delete(ItemState::Absent, true, required), Ok(DeleteAction::Nothing));
            assert_eq!(delete(ItemState::Absent, false, required), Err(Error::NoItem));
        }
        for force in [true, false] {
            assert_eq!(delete(ItemState::Expired, force, None), Ok(DeleteAction::Remove));
            assert_eq!(delete(ItemState::Expired, force, Some(7)), Err(Error::Precondition));
            assert_eq!(delete(LIVE, force, None), Ok(DeleteAction::Remove));
            assert_eq!(delete(LIVE, force, Some(7)), Ok(DeleteAction::Remove));
            assert_eq!(delete(LIVE, force, Some(8)), Err(Error::Precondition));
        }
    }

    #[test]
    fn items_expire_at_the_exact_microsecond() {
        assert_eq!(ItemState::of(Some((7, 100)), 99), LIVE);
        assert_eq!(ItemState::of(Some((7, 100)), 100), ItemState::Expired);
        assert_eq!(ItemState::of(Some((7, 0)), u64::MAX), LIVE);
        assert_eq!(ItemState::of(None, 0), ItemState::Absent);
    }
}
