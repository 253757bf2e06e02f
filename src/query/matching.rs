//! Whether a value is what a key asks for (PS3.4 C.2.2.2): single value, list, range, wildcards.

use dicom::core::VR;

/// Compares decoded text, trimmed on both sides. A value of several fits when one of them does; so does a key of several, which the
/// standard knows for UIDs only.
pub fn matches(vr: VR, key: &str, value: &str) -> bool {
    key.split('\\')
        .map(str::trim)
        .any(|key| value.split('\\').map(str::trim).any(|value| one(vr, key, value)))
}

fn one(vr: VR, key: &str, value: &str) -> bool {
    if key.is_empty() || key == "*" {
        return true;
    }
    match vr {
        VR::DA => within(range(key, digits_of_date), &digits_of_date(value)),
        VR::TM => within(range(key, digits_of_time), &digits_of_time(value)),
        VR::UI => key == value,
        VR::IS | VR::DS => match (key.parse::<f64>(), value.parse::<f64>()) {
            (Ok(key), Ok(value)) => key == value,
            _ => wildcard(key, value),
        },
        VR::PN => name(key, value),
        _ => wildcard(key, value),
    }
}

/// Letter case does not count, nor do empty components at the end; each component group may answer for the whole.
fn name(key: &str, value: &str) -> bool {
    let plain = |text: &str| text.trim_end_matches([' ', '^', '=']).to_lowercase();
    let (key, whole) = (plain(key), plain(value));
    let fits = |value: &str| wildcard(&key, value) || wildcard(key.trim_end_matches('*').trim_end_matches('^'), value);
    fits(&whole) || whole.split('=').any(|group| fits(group.trim_end_matches([' ', '^'])))
}

/// `*` is any text, `?` any one character. Linear in memory, and in time but for the product of the lengths.
fn wildcard(key: &str, value: &str) -> bool {
    let (key, value): (Vec<char>, Vec<char>) = (key.chars().collect(), value.chars().collect());
    let (mut k, mut v) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while v < value.len() {
        if k < key.len() && key[k] == '*' {
            star = Some((k, v));
            k += 1;
        } else if k < key.len() && (key[k] == '?' || key[k] == value[v]) {
            (k, v) = (k + 1, v + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (k, v) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    key[k..].iter().all(|c| *c == '*')
}

/// `20260101`, also of the old form `2026.01.01`.
pub(crate) fn digits_of_date(text: &str) -> String {
    text.chars().filter(|c| *c != '.').collect()
}

/// `235959.5`, also of the old form `23:59:59.5`.
fn digits_of_time(text: &str) -> String {
    text.chars().filter(|c| *c != ':').collect()
}

/// Lowest and highest value of a key, both included; an open end is `None`. A single value is its own range.
pub(crate) fn range(key: &str, digits: fn(&str) -> String) -> [Option<String>; 2] {
    let end = |text: &str| Some(digits(text.trim())).filter(|digits| !digits.is_empty());
    match key.split_once('-') {
        Some((low, high)) => [end(low), end(high)],
        None => [end(key), end(key)],
    }
}

/// A bound that is less precise than the value means all of its hour or minute, so only as much of the value is compared.
fn within([low, high]: [Option<String>; 2], value: &str) -> bool {
    let cut = |bound: &str| -> String { value.chars().take(bound.chars().count()).collect() };
    !value.is_empty()
        && low.is_none_or(|low| cut(&low).as_str() >= low.as_str() || value > low.as_str())
        && high.is_none_or(|high| cut(&high) <= high)
}

/// Date and time as one moment: the range goes from the first date's first time to the last date's last.
pub fn date_time(key_date: &str, key_time: &str, date: &str, time: &str) -> bool {
    let ([first_day, last_day], [from, to]) = (range(key_date, digits_of_date), range(key_time, digits_of_time));
    let (date, time) = (digits_of_date(date), digits_of_time(time));
    let after = match &first_day {
        Some(day) if date == *day => within([from, None], &time),
        Some(day) => date > *day,
        None => true,
    };
    let before = match &last_day {
        Some(day) if date == *day => within([None, to], &time),
        Some(day) => date < *day,
        None => true,
    };
    !date.is_empty() && after && before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_matching_of_the_standard() {
        let cases = [
            (VR::LO, "A*C", "ABBC", true),
            (VR::LO, "A?C", "ABBC", false),
            (VR::LO, "a*", "ABBC", false),
            (VR::LO, "*B*B*", "ABBC", true),
            (VR::CS, "CT", "CT\\SEG", true),
            (VR::CS, "MR\\SEG", "CT\\SEG", true),
            (VR::CS, "MR", "CT\\SEG", false),
            (VR::UI, "1.2\\1.3", "1.3", true),
            (VR::UI, "1.2*", "1.23", false),
            (VR::PN, "doe^j*", "Doe^John^^Dr", true),
            (VR::PN, "DOE", "Doe^John", false),
            (VR::PN, "Doe^John", "Doe^John^^^", true),
            (VR::PN, "Doe^John*", "Doe^John", true),
            (VR::PN, "山田*", "Yamada^Tarou=山田^太郎", true),
            (VR::DA, "20260101-20260131", "20260131", true),
            (VR::DA, "20260101-20260131", "20260201", false),
            (VR::DA, "-20260131", "19991231", true),
            (VR::DA, "20260101-", "2026.01.02", true),
            (VR::DA, "20260101", "", false),
            (VR::TM, "10-12", "123000.5", true),
            (VR::TM, "10-12", "130000", false),
            (VR::TM, "1000-", "095959", false),
            (VR::TM, "1015", "101530", true),
            (VR::IS, "7", "007", true),
            (VR::IS, "7", "70", false),
            (VR::SH, "", "anything", true),
            (VR::SH, "x", "", false),
        ];
        for (vr, key, value, expected) in cases {
            assert_eq!(matches(vr, key, value), expected, "{vr} {key:?} on {value:?}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let value = "a".repeat(10_000);
        assert!(!wildcard(&("a*".repeat(500) + "b"), &value));
    }
}
