//! What we answer: [`SERVICES`] is the table that negotiation, dispatch and the conformance statement read.
//!
//! `server` owns the accept loop, the limits and the drain at the end, and gives each association a thread of its own; `session` is
//! one association, `admission` who may open one, `spooler` carries its objects into the intake. One file per service that is asked:
//! `find`, `retrieve` (C-MOVE and C-GET), `commit`; `identifier` reads what they are asked.

mod admission;
mod places;
mod session;
mod spooler;
mod server;
mod roles;
mod identifier;
mod find;
mod retrieve;
mod commit;

pub use commit::report_commitments;
pub use server::{Doors, serve};

use crate::archive::Archive;
use crate::commitment::PUSH_MODEL;
use crate::config::{Config, Dicom, Peer, Permission};
use crate::dicom::ae::AeTitle;
use crate::intake::{AcceptedInstance, AssociationId, Claim, Intake, IntakeError, Spool};
use crate::labels;
use crate::net::association;
use crate::net::negotiation::Offer;
use crate::net::pdu::{AbortReason, Role, abort};
use crate::net::scu::{Dial, PeerTls};
use crate::net::tls::Tls;
use crate::net::transport::{Broken, Transport};
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// A service class we provide.
#[derive(Debug)]
pub struct Service {
    /// As PS3.4 calls it.
    pub name: &'static str,
    pub abstract_syntaxes: &'static [&'static str],
    /// In our order of preference.
    pub transfer_syntaxes: &'static [&'static str],
    /// What a peer must be allowed; `None`: every listed peer may.
    pub permission: Option<Permission>,
    pub answer: Answer,
}

/// The handler of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Echo,
    Store,
    Find(Root),
    Move(Root),
    Get(Root),
    Commit,
}

/// The information models of Query/Retrieve (PS3.4 C.6.1 and C.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    Patient,
    Study,
}

const IMPLICIT_VR_LE: &str = "1.2.840.10008.1.2";
const EXPLICIT_VR_LE: &str = "1.2.840.10008.1.2.1";

/// For data sets without pixels.
const DATA_TRANSFER_SYNTAXES: &[&str] = &[EXPLICIT_VR_LE, IMPLICIT_VR_LE];

/// Everything we are an SCP of.
pub const SERVICES: &[Service] = &[
    Service {
        name: "Verification",
        abstract_syntaxes: &["1.2.840.10008.1.1"],
        transfer_syntaxes: &[IMPLICIT_VR_LE, EXPLICIT_VR_LE],
        permission: None,
        answer: Answer::Echo,
    },
    Service {
        name: "CT Image Storage",
        abstract_syntaxes: &["1.2.840.10008.5.1.4.1.1.2"],
        transfer_syntaxes: IMAGE_TRANSFER_SYNTAXES,
        permission: Some(Permission::Store),
        answer: Answer::Store,
    },
    Service {
        name: "Enhanced CT Image Storage",
        abstract_syntaxes: &["1.2.840.10008.5.1.4.1.1.2.1"],
        transfer_syntaxes: IMAGE_TRANSFER_SYNTAXES,
        permission: Some(Permission::Store),
        answer: Answer::Store,
    },
    Service {
        name: "Legacy Converted Enhanced CT Image Storage",
        abstract_syntaxes: &["1.2.840.10008.5.1.4.1.1.2.2"],
        transfer_syntaxes: IMAGE_TRANSFER_SYNTAXES,
        permission: Some(Permission::Store),
        answer: Answer::Store,
    },
    Service {
        name: "RT Structure Set and Segmentation Storage, to be learned from",
        abstract_syntaxes: &labels::SOP_CLASSES,
        transfer_syntaxes: DRAWN_TRANSFER_SYNTAXES,
        permission: Some(Permission::Teach),
        answer: Answer::Store,
    },
    asked(
        "Patient Root Query/Retrieve - FIND",
        &["1.2.840.10008.5.1.4.1.2.1.1"],
        Permission::Query,
        Answer::Find(Root::Patient),
    ),
    asked(
        "Study Root Query/Retrieve - FIND",
        &["1.2.840.10008.5.1.4.1.2.2.1"],
        Permission::Query,
        Answer::Find(Root::Study),
    ),
    asked(
        "Patient Root Query/Retrieve - MOVE",
        &["1.2.840.10008.5.1.4.1.2.1.2"],
        Permission::Retrieve,
        Answer::Move(Root::Patient),
    ),
    asked(
        "Study Root Query/Retrieve - MOVE",
        &["1.2.840.10008.5.1.4.1.2.2.2"],
        Permission::Retrieve,
        Answer::Move(Root::Study),
    ),
    asked(
        "Patient Root Query/Retrieve - GET",
        &["1.2.840.10008.5.1.4.1.2.1.3"],
        Permission::Retrieve,
        Answer::Get(Root::Patient),
    ),
    asked(
        "Study Root Query/Retrieve - GET",
        &["1.2.840.10008.5.1.4.1.2.2.3"],
        Permission::Retrieve,
        Answer::Get(Root::Study),
    ),
    asked(
        "Storage Commitment Push Model",
        &[PUSH_MODEL],
        Permission::Commit,
        Answer::Commit,
    ),
];

/// Those that `labels` reads.
const DRAWN_TRANSFER_SYNTAXES: &[&str] = &[
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    "1.2.840.10008.1.2.2",    // explicit VR big endian
    "1.2.840.10008.1.2.1.99", // deflated explicit VR little endian
    "1.2.840.10008.1.2.5",    // RLE lossless
    "1.2.840.10008.1.2.4.80", // JPEG-LS lossless
];

/// A service whose data sets are identifiers and the like, never pixels.
const fn asked(
    name: &'static str,
    abstract_syntaxes: &'static [&'static str],
    permission: Permission,
    answer: Answer,
) -> Service {
    Service {
        name,
        abstract_syntaxes,
        transfer_syntaxes: DATA_TRANSFER_SYNTAXES,
        permission: Some(permission),
        answer,
    }
}

/// Those whose pixels we can decode, and no others: what we take, we can use. A context that proposes several may hold an object
/// the sender would have to transcode, so the ones that cannot alter a pixel come first and the uncompressed ones before all.
/// JPEG Extended (.51) is left out: its 12-bit images cannot be decoded here.
const IMAGE_TRANSFER_SYNTAXES: &[&str] = &[
    EXPLICIT_VR_LE,
    IMPLICIT_VR_LE,
    "1.2.840.10008.1.2.2",     // explicit VR big endian
    "1.2.840.10008.1.2.1.99",  // deflated explicit VR little endian
    "1.2.840.10008.1.2.5",     // RLE lossless
    "1.2.840.10008.1.2.4.80",  // JPEG-LS lossless
    "1.2.840.10008.1.2.4.70",  // JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  // JPEG lossless
    "1.2.840.10008.1.2.4.90",  // JPEG 2000, lossless only
    "1.2.840.10008.1.2.4.201", // HTJ2K, lossless only
    "1.2.840.10008.1.2.4.202", // HTJ2K with RPCL, lossless only
    "1.2.840.10008.1.2.4.81",  // JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.91",  // JPEG 2000
    "1.2.840.10008.1.2.4.203", // HTJ2K
    "1.2.840.10008.1.2.4.50",  // JPEG baseline, 8 bit
];

/// What a peer with these permissions may negotiate, when it asks for these roles.
fn offers(permissions: &[Permission], roles: &[Role]) -> Vec<Offer> {
    let offer = |service: &Service| Offer {
        abstract_syntaxes: service.abstract_syntaxes,
        transfer_syntaxes: service.transfer_syntaxes,
        permitted: service.permission.is_none_or(|needed| permissions.contains(&needed)),
    };
    // In front, because the first that names an abstract syntax decides.
    let mut offers = roles::offers(permissions, roles);
    offers.extend(SERVICES.iter().map(offer));
    offers
}

/// What the server runs on, checked by [`Config::resolve`].
#[derive(Clone, Debug)]
pub struct Settings {
    pub ae_title: AeTitle,
    /// What is stored here is learned from.
    pub teaching_ae: AeTitle,
    pub dicom: Dicom,
    pub peers: Vec<Peer>,
    /// Those to whom a C-MOVE may send, by AE title: destinations, and peers whose port is known.
    pub targets: Vec<Dial>,
    /// What can be asked for; `None` where there is nothing behind the wire.
    pub archive: Option<Archive>,
}

impl Settings {
    pub fn new(config: &Config, archive: Archive, tls: Option<&Arc<Tls>>) -> Self {
        Self {
            ae_title: config.ae_title.clone(),
            teaching_ae: config.teaching_ae.clone(),
            dicom: config.written.dicom.clone(),
            peers: config.written.peer.clone(),
            targets: targets(config, tls),
            archive: Some(archive),
        }
    }

    /// How to reach an AE title that the configuration names.
    fn target(&self, ae_title: &AeTitle) -> Option<&Dial> {
        self.targets.iter().find(|dial| dial.address.ae_title == *ae_title)
    }
}

/// Destinations first: of one that is a peer too, its entry says how to send to it.
pub fn targets(config: &Config, tls: Option<&Arc<Tls>>) -> Vec<Dial> {
    let timeout = Duration::from_secs(CALL_BACK_TIMEOUT_S);
    let back = |peer: &Peer| {
        Some(Dial {
            calling_ae: config.ae_title.clone(),
            address: peer.address()?,
            connect_timeout: timeout.min(Duration::from_secs(20)),
            timeout,
            tls: peer.tls.then(|| PeerTls::new(tls, &peer.tls_name, &peer.host)),
        })
    };
    let routes = config.routes.iter().map(|route| Dial::to(config, route, tls));
    routes.chain(config.written.peer.iter().filter_map(back)).collect()
}

/// For a peer that is called back; a destination has its own.
const CALL_BACK_TIMEOUT_S: u64 = 60;

/// Where received objects go: [`Intake`], or a stand-in that tests the wire alone. Everything here may block; all of an
/// association's calls come from one thread, and `association_closed` comes last, however the association ends.
pub trait Receiver: Clone + Send + Sync + 'static {
    type Spool: Send;
    /// Proof that the object is safe: without it there is no success to report.
    type Receipt: Send + 'static;
    fn association_opened(&self, association: AssociationId);
    fn association_closed(&self, association: AssociationId) -> Result<(), IntakeError>;
    fn begin(&self, claim: Claim) -> Result<Self::Spool, IntakeError>;
    fn write(spool: &mut Self::Spool, bytes: &[u8]) -> Result<(), IntakeError>;
    fn finish(spool: Self::Spool) -> Result<Self::Receipt, IntakeError>;
}

impl Receiver for Intake {
    type Spool = Spool;
    type Receipt = AcceptedInstance;
    fn association_opened(&self, association: AssociationId) {
        Intake::association_opened(self, association);
    }
    fn association_closed(&self, association: AssociationId) -> Result<(), IntakeError> {
        Intake::association_closed(self, association)
    }
    fn begin(&self, claim: Claim) -> Result<Spool, IntakeError> {
        Intake::begin(self, claim)
    }
    fn write(spool: &mut Spool, bytes: &[u8]) -> Result<(), IntakeError> {
        spool.write(bytes)
    }
    fn finish(spool: Spool) -> Result<AcceptedInstance, IntakeError> {
        spool.finish()
    }
}

/// Logs why an association ended badly, and tells the peer unless it is the one who left.
async fn part(transport_or_association: Parting, broken: Broken) {
    let reason = match &broken {
        Broken::Closed | Broken::Io(_) | Broken::Aborted { .. } => {
            warn!(cause = %broken, "association broke off");
            return;
        }
        Broken::TimedOut { .. } => AbortReason::NotSpecified,
        Broken::Violation { reason, .. } => *reason,
    };
    warn!(cause = %broken, "aborted association");
    match transport_or_association {
        Parting::Transport(transport) => transport.farewell(&abort(reason)).await,
        Parting::Association(association) => association.abort(reason).await,
    }
}

/// What is left to say goodbye with.
enum Parting {
    Transport(Transport),
    Association(association::Association),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::uid::Uid;
    use dicom::encoding::TransferSyntaxIndex;
    use dicom::transfer_syntax::TransferSyntaxRegistry;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_names_each_syntax_once_and_well() {
        let mut seen = BTreeSet::new();
        for service in SERVICES {
            for uid in service.abstract_syntaxes {
                assert!(Uid::parse(uid).is_ok() && seen.insert(uid), "{uid} of {}", service.name);
            }
            let distinct: BTreeSet<_> = service.transfer_syntaxes.iter().collect();
            assert_eq!(distinct.len(), service.transfer_syntaxes.len(), "{}", service.name);
        }
    }

    #[test]
    fn every_transfer_syntax_we_take_can_be_decoded() {
        for uid in IMAGE_TRANSFER_SYNTAXES {
            let syntax = TransferSyntaxRegistry.get(uid).expect(uid);
            assert!(syntax.can_decode_all(), "{uid}");
        }
    }

    #[test]
    fn each_service_needs_its_permission_and_verification_none() {
        let permitted = |permissions: &[Permission]| -> Vec<&str> {
            let offers = offers(permissions, &[]);
            let named = SERVICES.iter().zip(&offers).filter(|(_, offer)| offer.permitted);
            named
                .map(|(service, _)| service.name.split(' ').next_back().unwrap_or_default())
                .collect()
        };
        assert_eq!(permitted(&[]), ["Verification"]);
        assert_eq!(
            permitted(&[Permission::Store]),
            ["Verification", "Storage", "Storage", "Storage"]
        );
        assert_eq!(
            permitted(&[Permission::Teach, Permission::Store]),
            ["Verification", "Storage", "Storage", "Storage", "from"]
        );
        assert_eq!(permitted(&[Permission::Query]), ["Verification", "FIND", "FIND"]);
        assert_eq!(
            permitted(&[Permission::Retrieve]),
            ["Verification", "MOVE", "MOVE", "GET", "GET"]
        );
    }
}
