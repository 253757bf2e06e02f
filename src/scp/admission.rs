//! Who may open an association, and what it may then do.

use crate::config::{Peer, Permission};
use crate::dicom::ae::AeTitle;
use crate::net::pdu::{APPLICATION_CONTEXT, AssociateRequest, Reject};
use crate::net::printable;
use crate::scp::Settings;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::timeout;
use tracing::warn;

/// What an operator writes to mean everybody.
const ANY: &str = "any";
/// A name server that does not answer must not hold an association open.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// An admitted caller.
#[derive(Debug)]
pub struct Admitted {
    pub calling_ae: AeTitle,
    /// Which of our titles it called.
    pub called_ae: AeTitle,
    pub permissions: Vec<Permission>,
}

/// Why a caller is turned away: what it is told, and what the log says beyond that.
#[derive(Debug)]
pub struct Refusal {
    pub reject: Reject,
    pub cause: String,
}

/// Checks protocol, calling AE title with its host, and called AE title, in this order: a stranger learns nothing of our title.
/// A caller that several peers describe may do what any of them may.
pub async fn admit(settings: &Settings, request: &AssociateRequest, address: SocketAddr) -> Result<Admitted, Refusal> {
    let refuse = |reject, cause: String| Err(Refusal { reject, cause });
    if request.protocol_version & 1 == 0 {
        let cause = format!("protocol version {:04X}H", request.protocol_version);
        return refuse(Reject::PROTOCOL_VERSION_NOT_SUPPORTED, cause);
    }
    if request.application_context != APPLICATION_CONTEXT {
        let cause = format!("application context {:?}", printable(&request.application_context));
        return refuse(Reject::APPLICATION_CONTEXT_NOT_SUPPORTED, cause);
    }
    let Ok(calling_ae) = AeTitle::parse(&request.calling_ae) else {
        return refuse(
            Reject::CALLING_AE_NOT_RECOGNIZED,
            "the calling AE title is not one".into(),
        );
    };
    let titled: Vec<&Peer> = settings
        .peers
        .iter()
        .filter(|peer| answers_to(peer, &calling_ae))
        .collect();
    if titled.is_empty() {
        return refuse(
            Reject::CALLING_AE_NOT_RECOGNIZED,
            "no [[peer]] has this calling AE title".into(),
        );
    }
    let mut matching = Vec::new();
    for peer in titled {
        if lives_at(&peer.host, address.ip().to_canonical()).await {
            matching.push(peer);
        }
    }
    if matching.is_empty() {
        let cause = "the [[peer]] with this calling AE title has another host".to_owned();
        return refuse(Reject::CALLING_AE_NOT_RECOGNIZED, cause);
    }
    let may: Vec<Permission> = matching.iter().flat_map(|peer| peer.may.iter().copied()).collect();
    let called = AeTitle::parse(&request.called_ae).ok();
    let Some((called_ae, permissions)) = called.and_then(|called| as_called(settings, called, &may)) else {
        let cause = format!(
            "it called {:?}, we are {}, and {} for those who may teach",
            printable(&request.called_ae),
            settings.ae_title,
            settings.teaching_ae
        );
        return refuse(Reject::CALLED_AE_NOT_RECOGNIZED, cause);
    };
    Ok(Admitted {
        calling_ae,
        called_ae,
        permissions,
    })
}

/// What a caller may do under the title it called: at the teaching title nothing but teach, which takes the CT too. Who may not
/// teach is not told that the title exists.
fn as_called(settings: &Settings, called: AeTitle, may: &[Permission]) -> Option<(AeTitle, Vec<Permission>)> {
    let teaches = may.contains(&Permission::Teach);
    if called == settings.ae_title {
        let others = may
            .iter()
            .copied()
            .filter(|permission| *permission != Permission::Teach);
        Some((called, others.collect()))
    } else if called == settings.teaching_ae && teaches {
        Some((called, vec![Permission::Teach, Permission::Store]))
    } else {
        None
    }
}

fn answers_to(peer: &Peer, calling_ae: &AeTitle) -> bool {
    peer.ae_title == ANY || AeTitle::parse(&peer.ae_title).as_ref() == Ok(calling_ae)
}

/// Names are looked up at each association, since addresses behind names change.
async fn lives_at(host: &str, address: IpAddr) -> bool {
    if host == ANY {
        return true;
    }
    if let Ok(written) = host.parse::<IpAddr>() {
        return written.to_canonical() == address;
    }
    match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, 0))).await {
        Ok(Ok(mut found)) => found.any(|found| found.ip().to_canonical() == address),
        Ok(Err(error)) => {
            warn!(host, %error, "cannot resolve the host of a peer");
            false
        }
        Err(_) => {
            warn!(
                host,
                timeout_s = RESOLVE_TIMEOUT.as_secs(),
                "no answer when resolving the host of a peer"
            );
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Dicom;

    fn peer(ae_title: &str, host: &str, may: &[Permission]) -> Peer {
        Peer {
            ae_title: ae_title.into(),
            host: host.into(),
            may: may.to_vec(),
            ..Peer::default()
        }
    }

    fn settings(peers: Vec<Peer>) -> Settings {
        Settings {
            ae_title: AeTitle::parse("MEDLSAM").unwrap(),
            teaching_ae: AeTitle::parse("TEACH").unwrap(),
            dicom: Dicom::default(),
            peers,
            targets: Vec::new(),
            archive: None,
        }
    }

    fn request(calling: &str, called: &str) -> AssociateRequest {
        AssociateRequest {
            protocol_version: 1,
            calling_ae: calling.into(),
            called_ae: called.into(),
            application_context: APPLICATION_CONTEXT.into(),
            ..AssociateRequest::default()
        }
    }

    #[tokio::test]
    async fn callers_are_known_by_title_and_host_and_get_the_reason_of_the_standard() {
        let settings = settings(vec![
            peer("CT1", "10.0.0.5", &[Permission::Store]),
            peer("CT2", "localhost", &[Permission::Store]),
            peer("CT2", "any", &[]),
        ]);
        let verdict = async |calling, called, from: &str| {
            let admitted = admit(&settings, &request(calling, called), from.parse().unwrap()).await;
            admitted.map(|a| a.permissions).map_err(|refusal| refusal.reject)
        };
        assert_eq!(
            verdict("CT1", "MEDLSAM", "10.0.0.5:1").await,
            Ok(vec![Permission::Store])
        );
        assert_eq!(
            verdict("CT1", "MEDLSAM", "[::ffff:10.0.0.5]:1").await,
            Ok(vec![Permission::Store])
        );
        assert_eq!(
            verdict("CT1", "MEDLSAM", "10.0.0.6:1").await,
            Err(Reject::CALLING_AE_NOT_RECOGNIZED)
        );
        assert_eq!(
            verdict("ct1", "MEDLSAM", "10.0.0.5:1").await,
            Err(Reject::CALLING_AE_NOT_RECOGNIZED)
        );
        assert_eq!(
            verdict("any", "MEDLSAM", "10.0.0.5:1").await,
            Err(Reject::CALLING_AE_NOT_RECOGNIZED)
        );
        assert_eq!(
            verdict("", "MEDLSAM", "10.0.0.5:1").await,
            Err(Reject::CALLING_AE_NOT_RECOGNIZED)
        );
        assert_eq!(
            verdict("CT1", "ORTHANC", "10.0.0.5:1").await,
            Err(Reject::CALLED_AE_NOT_RECOGNIZED)
        );
        assert_eq!(
            verdict("CT2", "MEDLSAM", "127.0.0.1:1").await,
            Ok(vec![Permission::Store])
        );
        assert_eq!(verdict("CT2", "MEDLSAM", "10.9.9.9:1").await, Ok(vec![]));
    }

    #[tokio::test]
    async fn who_may_teach_does_so_under_the_teaching_title_only() {
        let settings = settings(vec![
            peer("TPS", "any", &[Permission::Teach]),
            peer("CT1", "any", &[Permission::Store]),
        ]);
        let verdict = async |calling, called| {
            let admitted = admit(&settings, &request(calling, called), "10.0.0.5:1".parse().unwrap()).await;
            admitted.map(|a| a.permissions).map_err(|refusal| refusal.reject)
        };
        let all = vec![Permission::Teach, Permission::Store];
        assert_eq!(verdict("TPS", "TEACH").await, Ok(all));
        assert_eq!(verdict("TPS", "MEDLSAM").await, Ok(vec![]));
        assert_eq!(verdict("CT1", "TEACH").await, Err(Reject::CALLED_AE_NOT_RECOGNIZED));
    }

    #[tokio::test]
    async fn any_is_everybody_and_a_wrong_protocol_is_refused_first() {
        let settings = settings(vec![peer("any", "any", &[])]);
        let from = "10.0.0.5:1".parse().unwrap();
        assert!(admit(&settings, &request("WHOEVER", "MEDLSAM"), from).await.is_ok());
        let old = AssociateRequest {
            protocol_version: 2,
            ..request("WHOEVER", "MEDLSAM")
        };
        assert_eq!(
            admit(&settings, &old, from).await.unwrap_err().reject,
            Reject::PROTOCOL_VERSION_NOT_SUPPORTED
        );
        let alien = AssociateRequest {
            application_context: "1.2.3".into(),
            ..request("WHOEVER", "MEDLSAM")
        };
        assert_eq!(
            admit(&settings, &alien, from).await.unwrap_err().reject,
            Reject::APPLICATION_CONTEXT_NOT_SUPPORTED
        );
    }
}
