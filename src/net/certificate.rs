//! When a certificate ends: the one fact of X.509 that administration needs and rustls does not tell.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// DER types of X.690 that stand on the way to the validity.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of the validity (`notAfter`, RFC 5280 4.1.2.5) of a DER certificate; `None` when it is none.
pub fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = take(certificate, SEQUENCE)?;
    let (mut fields, _) = take(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = next(fields)?.2;
    }
    // Serial number, signature algorithm and issuer come first.
    for _ in 0..3 {
        fields = next(fields)?.2;
    }
    let (validity, _) = take(fields, SEQUENCE)?;
    let (kind, time, _) = next(next(validity)?.2)?;
    let digits = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let full = match kind {
        // Two digits of year: 50 and above are of the last century.
        UTC_TIME if digits.get(..2)? < "50" => format!("20{digits}"),
        UTC_TIME => format!("19{digits}"),
        GENERALIZED_TIME => digits.to_owned(),
        _ => return None,
    };
    let civil = DateTime::strptime("%Y%m%d%H%M%S", full).ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The content of the element at the front, which has this type, and what follows it.
fn take(bytes: &[u8], expected: u8) -> Option<(&[u8], &[u8])> {
    let (kind, content, rest) = next(bytes)?;
    (kind == expected).then_some((content, rest))
}

/// Type, content and rest of the element at the front (X.690 8.1: one type byte, definite length).
fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, short], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match short {
        0..=0x7F => (usize::from(short), rest),
        0x81..=0x84 => {
            let (long, rest) = rest.split_at_checked(usize::from(short & 0x7F))?;
            (
                long.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)),
                rest,
            )
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((kind, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![kind, 0x82];
        out.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
        out.extend_from_slice(content);
        out
    }

    fn certificate(version: bool, kind: u8, end: &str) -> Vec<u8> {
        let validity = [element(UTC_TIME, b"200101000000Z"), element(kind, end.as_bytes())].concat();
        let mut fields = Vec::new();
        if version {
            fields.extend(element(VERSION, &[2, 1, 2]));
        }
        for (kind, content) in [
            (2, &b"\x07"[..]),
            (SEQUENCE, b""),
            (SEQUENCE, b"issuer"),
            (SEQUENCE, &validity),
        ] {
            fields.extend(element(kind, content));
        }
        element(SEQUENCE, &element(SEQUENCE, &fields))
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let end = |bytes: &[u8]| not_after(bytes).map(|t| t.to_string());
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(
            end(&certificate(true, UTC_TIME, "491231235959Z")),
            at("2049-12-31T23:59:59Z")
        );
        assert_eq!(
            end(&certificate(false, UTC_TIME, "500101000000Z")),
            at("1950-01-01T00:00:00Z")
        );
        assert_eq!(
            end(&certificate(true, GENERALIZED_TIME, "20610203040506Z")),
            at("2061-02-03T04:05:06Z")
        );
        assert_eq!(end(&certificate(true, UTC_TIME, "491331235959Z")), None);
    }

    #[test]
    fn every_cut_is_survived() {
        let whole = certificate(true, UTC_TIME, "300101000000Z");
        assert!((0..whole.len()).all(|end| not_after(&whole[..end]).is_none()));
    }
}
