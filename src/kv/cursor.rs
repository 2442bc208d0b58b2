//! Cursors as the hosted API makes them: padded base64 of a protobuf message whose field 1 is the
//! last key that was returned (contract.md, 3.4).

use super::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The tag of field 1, length-delimited.
const TAG: u8 = 0x0a;
/// No cursor of ours names more bytes: a store's name of 255 characters has at most 1020.
const KEY_BYTES_MAX: usize = 1024;

/// The cursor that continues after `last`.
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

/// The key that a cursor continues after.
///
/// # Errors
/// [`Error::Invalid`] for anything that is no cursor of this API.
pub fn decode(cursor: &str) -> Result<Vec<u8>, Error> {
    parse(cursor).ok_or_else(|| Error::invalid("cursor", "must be one that a list answered"))
}

fn parse(cursor: &str) -> Option<Vec<u8>> {
    let message = STANDARD.decode(cursor).ok()?;
    let (tag, mut rest) = message.split_first()?;
    let mut len = 0_usize;
    for shift in [0, 7] {
        let (byte, after) = rest.split_first()?;
        rest = after;
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
    fn recorded_cursors_come_out_byte_for_byte() {
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
        fn no_text_makes_decoding_panic(text in ".*") {
            let _ = decode(&text);
        }
    }
}
