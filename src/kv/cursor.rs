//! List cursors in the encoding of the hosted API: padded base64 of a protobuf message whose field
//! 1 is the last key returned (docs/contract.md section 3.4).

use super::limits::KEY_BYTES_MAX;
use super::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The tag of field 1, which is length-delimited.
const TAG: u8 = 0x0a;

/// Encodes the cursor for the page after `last`.
pub fn encode(last: &[u8]) -> String {
    let mut message = vec![TAG];
    let mut len = last.len();
    while len >= 0x80 {
        message.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    message.push((len & 0x7f) as u8);
    message.extend_from_slice(last);
    STANDARD.encode(message)
}

/// Decodes a cursor into the last key of the previous page.
///
/// # Errors
/// Returns [`Error::Invalid`] if the cursor is malformed.
pub fn decode(cursor: &str) -> Result<Vec<u8>> {
    parse(cursor).ok_or_else(|| Error::invalid("cursor", "must be one returned by a list"))
}

fn parse(cursor: &str) -> Option<Vec<u8>> {
    let message = STANDARD.decode(cursor).ok()?;
    let (tag, mut rest) = message.split_first()?;
    let mut len = 0_usize;
    for shift in [0, 7] {
        let (byte, tail) = rest.split_first()?;
        rest = tail;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let fits = *tag == TAG && rest.len() == len && (1..=KEY_BYTES_MAX).contains(&len);
            return fits.then(|| rest.to_vec());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cursors_match_those_of_the_hosted_api() {
        assert_eq!(encode(b"batch-2"), "CgdiYXRjaC0y");
        assert_eq!(encode(b"dragonfruit"), "CgtkcmFnb25mcnVpdA==");
        assert_eq!(encode(b"banana"), "CgZiYW5hbmE=");
        let long = STANDARD.decode(encode(&[b'k'; 200])).unwrap();
        assert_eq!(long[..3], [0x0a, 0xc8, 0x01]);
    }

    proptest! {
        #[test]
        fn cursors_round_trip(key in proptest::collection::vec(any::<u8>(), 1..1024)) {
            prop_assert_eq!(decode(&encode(&key)).unwrap(), key);
        }

        #[test]
        fn decoding_arbitrary_text_does_not_panic(text in ".*") {
            let _ = decode(&text);
        }
    }
}
