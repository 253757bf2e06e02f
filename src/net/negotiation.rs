//! Which presentation contexts we accept, and with which transfer syntax (PS3.8 9.3.3.2).

use crate::dicom::uid::Uid;
use crate::net::pdu::{Answered, Proposed};

/// What is offered for a group of abstract syntaxes.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub abstract_syntaxes: &'static [&'static str],
    /// In our order of preference, best first: the requestor's order has no meaning in the standard (PS3.8 9.3.2.2).
    pub transfer_syntaxes: &'static [&'static str],
    /// False: the peer may not use it, and is told so with result 1.
    pub permitted: bool,
}

/// An accepted presentation context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pub id: u8,
    pub abstract_syntax: Uid,
    pub transfer_syntax: Uid,
}

pub const ACCEPTANCE: u8 = 0;
pub const USER_REJECTION: u8 = 1;
pub const ABSTRACT_SYNTAX_NOT_SUPPORTED: u8 = 3;
pub const TRANSFER_SYNTAXES_NOT_SUPPORTED: u8 = 4;

/// Answers each proposed context, in order, and lists the accepted ones.
pub fn negotiate(proposed: &[Proposed], offers: &[Offer]) -> (Vec<Answered>, Vec<Context>) {
    let mut accepted = Vec::new();
    let answers = proposed.iter().map(|context| {
        let (result, transfer_syntax) = match choose(context, offers) {
            Ok(transfer_syntax) => (ACCEPTANCE, transfer_syntax),
            // Not significant in a refusal, but the item must hold one; a stranger's text is bounded before it is echoed.
            Err(result) => (
                result,
                context
                    .transfer_syntaxes
                    .first()
                    .filter(|s| s.len() <= 64)
                    .map_or("", |s| s.as_str()),
            ),
        };
        if let (ACCEPTANCE, Ok(abstract_syntax), Ok(transfer_syntax)) = (
            result,
            Uid::parse(&context.abstract_syntax),
            Uid::parse(transfer_syntax),
        ) {
            accepted.push(Context {
                id: context.id,
                abstract_syntax,
                transfer_syntax,
            });
        }
        Answered {
            id: context.id,
            result,
            transfer_syntax: transfer_syntax.to_owned(),
        }
    });
    (answers.collect(), accepted)
}

fn choose(context: &Proposed, offers: &[Offer]) -> Result<&'static str, u8> {
    let offer = offers
        .iter()
        .find(|offer| offer.abstract_syntaxes.contains(&context.abstract_syntax.as_str()))
        .ok_or(ABSTRACT_SYNTAX_NOT_SUPPORTED)?;
    if !offer.permitted {
        return Err(USER_REJECTION);
    }
    let common = offer
        .transfer_syntaxes
        .iter()
        .find(|ours| context.transfer_syntaxes.iter().any(|theirs| theirs == *ours));
    common.copied().ok_or(TRANSFER_SYNTAXES_NOT_SUPPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERS: &[Offer] = &[
        Offer {
            abstract_syntaxes: &["1.1"],
            transfer_syntaxes: &["9.1", "9.2"],
            permitted: true,
        },
        Offer {
            abstract_syntaxes: &["1.2"],
            transfer_syntaxes: &["9.1"],
            permitted: false,
        },
    ];

    fn proposed(id: u8, abstract_syntax: &str, transfer_syntaxes: &[&str]) -> Proposed {
        Proposed {
            id,
            abstract_syntax: abstract_syntax.into(),
            transfer_syntaxes: transfer_syntaxes.iter().map(|&s| s.into()).collect(),
        }
    }

    #[test]
    fn each_context_gets_its_own_answer() {
        let (answers, accepted) = negotiate(
            &[
                proposed(1, "1.1", &["9.2", "9.1"]),
                proposed(3, "1.1", &["9.3"]),
                proposed(5, "1.2", &["9.1"]),
                proposed(7, "1.3", &["9.1"]),
                proposed(9, "1.1", &["9.2"]),
                proposed(11, "1.1", &[]),
            ],
            OFFERS,
        );
        let results: Vec<_> = answers.iter().map(|a| (a.id, a.result)).collect();
        assert_eq!(results, [(1, 0), (3, 4), (5, 1), (7, 3), (9, 0), (11, 4)]);
        let ids: Vec<_> = accepted.iter().map(|c| (c.id, c.transfer_syntax.as_str())).collect();
        assert_eq!(
            ids,
            [(1, "9.1"), (9, "9.2")],
            "our preference wins over the order of the proposal"
        );
    }
}
