//! Who is user and who is provider, where a peer asks for other roles than the usual ones (PS3.7 D.3.3.4).
//!
//! For C-GET the requestor provides storage to us; a PACS that reports what it keeps provides storage commitment.

use crate::commitment::PUSH_MODEL;
use crate::config::Permission;
use crate::net::negotiation::Offer;
use crate::net::pdu::Role;
use crate::results;
use crate::scp::{Answer, DATA_TRANSFER_SYNTAXES, IMAGE_TRANSFER_SYNTAXES, SERVICES, Service};

/// Whether we have objects of a SOP class to give: those that we store, and those that we make.
fn retrievable(sop_class_uid: &str) -> Option<&'static &'static str> {
    let stored = SERVICES.iter().filter(|service| service.answer == Answer::Store);
    let stored = stored.flat_map(|service| service.abstract_syntaxes);
    let made = results::KINDS.iter().map(|kind| &kind.sop_class_uid);
    let told = results::notice::KINDS.iter().map(|kind| &kind.sop_class_uid);
    stored.chain(made).chain(told).find(|known| **known == sop_class_uid)
}

fn service_of(sop_class_uid: &str) -> Option<&'static Service> {
    SERVICES
        .iter()
        .find(|service| service.abstract_syntaxes.contains(&sop_class_uid))
}

/// What is offered to a peer for the roles it asks for.
pub fn offers(permissions: &[Permission], asked: &[Role]) -> Vec<Offer> {
    let provided = || asked.iter().filter(|role| role.scp);
    let retrieved = provided().filter_map(|role| retrievable(&role.sop_class_uid));
    // Whoever is listed may report; what it reports on was asked for by us.
    let reports = provided()
        .filter(|role| role.sop_class_uid == PUSH_MODEL)
        .map(|_| Offer {
            abstract_syntaxes: &[PUSH_MODEL],
            transfer_syntaxes: DATA_TRANSFER_SYNTAXES,
            permitted: true,
        });
    let retrieved = retrieved
        .filter(|_| permissions.contains(&Permission::Retrieve))
        .map(|class| Offer {
            abstract_syntaxes: std::slice::from_ref(class),
            transfer_syntaxes: IMAGE_TRANSFER_SYNTAXES,
            permitted: true,
        });
    reports.chain(retrieved).collect()
}

/// The roles granted, for each asked for. What we know nothing of is not answered, which leaves the usual roles.
pub fn grant(permissions: &[Permission], asked: &[Role]) -> Vec<Role> {
    let known = |role: &Role| {
        let service = service_of(&role.sop_class_uid);
        let may_use = service.is_some_and(|s| s.permission.is_none_or(|needed| permissions.contains(&needed)));
        let may_give = retrievable(&role.sop_class_uid).is_some() && permissions.contains(&Permission::Retrieve);
        let may_provide = may_give || role.sop_class_uid == PUSH_MODEL;
        (may_use || may_provide).then(|| Role {
            sop_class_uid: role.sop_class_uid.clone(),
            scu: role.scu && may_use,
            scp: role.scp && may_provide,
        })
    };
    asked.iter().filter_map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
    const SEG: &str = "1.2.840.10008.5.1.4.1.1.66.4";

    fn role(sop_class_uid: &str, scu: bool, scp: bool) -> Role {
        Role {
            sop_class_uid: sop_class_uid.into(),
            scu,
            scp,
        }
    }

    #[test]
    fn who_may_retrieve_may_provide_storage_and_who_may_not_store_is_no_user_of_it() {
        let asked = [
            role(CT, true, true),
            role(SEG, false, true),
            role("1.2.840.10008.5.1.4.1.1.1", false, true),
            role("1.2.840.10008.1.1", true, false),
        ];
        let verification = role("1.2.840.10008.1.1", true, false);
        assert_eq!(
            grant(&[Permission::Retrieve], &asked),
            [role(CT, false, true), role(SEG, false, true), verification.clone()]
        );
        assert_eq!(
            grant(&[Permission::Store], &asked),
            [role(CT, true, false), verification],
            "nothing of the SEG, which it may not have"
        );
        let offered = |permissions: &[Permission]| -> Vec<&str> {
            let offers = offers(permissions, &asked);
            offers.iter().map(|offer| offer.abstract_syntaxes[0]).collect()
        };
        assert_eq!(offered(&[Permission::Retrieve]), [CT, SEG]);
        assert!(offered(&[Permission::Store]).is_empty());
        let pacs = [role(PUSH_MODEL, false, true)];
        assert_eq!(grant(&[], &pacs), pacs, "whoever is listed may report");
        assert_eq!(offers(&[], &pacs).len(), 1);
    }
}
