//! Properties of an input that a store cannot represent, for a note at the end of an import.

use super::ItemPosition;
use std::sync::{Mutex, PoisonError};

/// Collects properties while the input is read.
#[derive(Debug, Default)]
pub struct SourceNotes(Mutex<Properties>);

#[derive(Debug, Default)]
struct Properties {
    /// The number of items with a lease.
    leases: u64,
    /// Position and key of the first item with a lease.
    first_lease: Option<(ItemPosition, String)>,
    with_value: u64,
    without_value: u64,
    incomplete: bool,
}

impl SourceNotes {
    fn update(&self, update: impl FnOnce(&mut Properties)) {
        update(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds an item with a lease.
    pub(super) fn add_lease(&self, position: ItemPosition, key: &str) {
        self.update(|noted| {
            noted.leases += 1;
            noted.first_lease.get_or_insert_with(|| (position, key.to_owned()));
        });
    }

    /// Adds an item that has a value, or has none in an export that omits empty values.
    pub(super) fn add_value(&self, present: bool) {
        self.update(|noted| match present {
            true => noted.with_value += 1,
            false => noted.without_value += 1,
        });
    }

    /// Records that the input states that it does not contain all items.
    pub(super) fn add_incomplete(&self) {
        self.update(|noted| noted.incomplete = true);
    }

    /// Returns a message for each property that was found.
    pub fn messages(&self) -> Vec<String> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut messages = Vec::new();
        if let Some((position, key)) = &noted.first_lease {
            let (items, never) = match noted.leases {
                1 => ("1 item has a lease".to_owned(), "it never expires"),
                leases => (format!("{leases} items have a lease"), "they never expire"),
            };
            messages.push(format!(
                "{items}, so {never} in the store, because the export does not contain the times \
                 to live of leases (first: {position}, key {key:?})"
            ));
        }
        if noted.with_value == 0 && noted.without_value > 0 {
            messages.push("no item has a value; was the export made with --keys-only?".into());
        }
        if noted.incomplete {
            messages.push(
                "the export is incomplete, because its number of items was limited; the rest is \
                 not imported"
                    .into(),
            );
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_property_has_a_message() {
        let notes = SourceNotes::default();
        assert!(notes.messages().is_empty());
        notes.add_value(false);
        notes.add_incomplete();
        let messages = notes.messages();
        assert!(messages[0].contains("--keys-only") && messages[1].contains("incomplete"));
        notes.add_value(true);
        assert_eq!(notes.messages().len(), 1);
        notes.add_lease(ItemPosition { item: 2, line: 1 }, "a");
        let first = &notes.messages()[0];
        assert!(first.starts_with("1 item has a lease, so it never expires"), "{first}");
        notes.add_lease(ItemPosition { item: 3, line: 1 }, "b");
        let first = &notes.messages()[0];
        assert!(first.starts_with("2 items have a lease, so they never expire"), "{first}");
        assert!(first.ends_with("(first: item 2, line 1, key \"a\")"), "{first}");
    }
}
