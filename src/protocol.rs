//! Which protocol a series belongs to: the first whose every `match` clause fits.

use crate::config::Protocol;
use crate::dicom::header::Instance;

/// No protocol fits. The text names, for each protocol, the first clause that did not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no protocol matches this series: {}", if .0.is_empty() { "none is configured".to_owned() } else { .0.join("; ") })]
pub struct NoProtocol(pub Vec<String>);

/// The first protocol that matches. The series speaks through one instance, chosen independently of the order of arrival: the
/// lowest instance number that is not a localizer, because scouts carry another image type and kernel.
pub fn find<'a>(protocols: &'a [Protocol], instances: &[Instance]) -> Result<&'a Protocol, NoProtocol> {
    let is_localizer = |instance: &Instance| instance.image_type.iter().any(|value| value == "LOCALIZER");
    let speaker = instances
        .iter()
        .min_by_key(|i| (is_localizer(i), i.instance_number, i.sop_instance_uid.clone()));
    let Some(speaker) = speaker else {
        return Err(NoProtocol(vec!["the series has no instance".to_owned()]));
    };
    let mut misfits = Vec::new();
    for protocol in protocols {
        match misfit(protocol, speaker) {
            None => return Ok(protocol),
            Some(misfit) => misfits.push(misfit),
        }
    }
    Err(NoProtocol(misfits))
}

/// The first clause that does not fit, in words.
fn misfit(protocol: &Protocol, instance: &Instance) -> Option<String> {
    protocol.matches.iter().find_map(|(keyword, pattern)| {
        // Absent counts as empty, so that `*` fits it, as in a DICOM query (PS3.4 C.2.2.2.3).
        let value = instance.matchable.get(keyword.as_str()).map_or("", String::as_str);
        (!fits(pattern, value)).then(|| {
            let found = if value.is_empty() {
                "absent or empty".to_owned()
            } else {
                format!("{value:?}")
            };
            format!("{} wants {keyword} {pattern:?}, which is {found}", protocol.name)
        })
    })
}

/// Wildcard matching: `*` is any run of characters, `?` any one; letter case is ignored. Time is bounded by the product of the lengths.
pub fn fits(pattern: &str, text: &str) -> bool {
    let fold = |s: &str| s.trim().chars().flat_map(char::to_lowercase).collect::<Vec<char>>();
    let (pattern, text) = (fold(pattern), fold(text));
    let (mut p, mut t) = (0, 0);
    // Where to resume when a tentative match breaks: after the last star, one character further on.
    let mut resume: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                resume = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut resume {
                Some((after_star, from)) => {
                    *from += 1;
                    (p, t) = (*after_star, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_fit_as_a_query_would() {
        for (pattern, text) in [
            ("*", ""),
            ("chest*", "CHEST 2.5"),
            ("*ab*", "xabab"),
            ("c?t", "CaT"),
            ("a*b*c", "a1b2b3c"),
            ("", " "),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("?", ""),
            ("chest", "chest 2.5"),
            ("a*b", "abc"),
            ("", "x"),
            ("*a", "ab"),
        ] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
        // A pattern made to explode a backtracking matcher.
        assert!(!fits(&"*a".repeat(40), &"b".repeat(5000)));
    }
}
