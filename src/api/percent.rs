//! Percent-decoding of paths and queries (docs/contract.md section 1).
//!
//! Invalid sequences are errors here, whereas the `percent-encoding` crate passes them through.

/// Decodes a path segment once; `+` is literal. Returns `None` if a sequence is invalid.
pub(super) fn decode_segment(raw: &[u8]) -> Option<Vec<u8>> {
    decode(raw, false)
}

/// Decodes a query name or value once; `+` is a space. Returns `None` if a sequence is invalid.
pub(super) fn decode_form(raw: &[u8]) -> Option<Vec<u8>> {
    decode(raw, true)
}

fn decode(raw: &[u8], plus_is_space: bool) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>()?;
                let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
                decoded.push(u8::try_from(high? * 16 + low?).ok()?);
                rest = after;
            }
            b'+' if plus_is_space => decoded.push(b' '),
            byte => decoded.push(*byte),
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_once_and_a_plus_is_literal() {
        assert_eq!(decode_segment(b"a%252Fb+c%20%C3%A9").unwrap(), "a%2Fb+c é".as_bytes());
        for bad in [&b"%"[..], b"%2", b"%zz", b"a%+1", b"%2g"] {
            assert_eq!(decode_segment(bad), None, "{bad:?}");
        }
    }
}
