//! Where we listen.

use crate::config::{Problem, Written};

/// Both ports are addresses, and not the same one.
pub(in crate::config) fn check_ports(written: &Written, problems: &mut Vec<Problem>) {
    let (plain, encrypted) = (&written.dicom.listen, &written.dicom.tls.listen);
    let web = &written.web.listen;
    let ports = [
        ("dicom.listen", plain, "e.g. \"0.0.0.0:11112\""),
        (
            "dicom.tls.listen",
            encrypted,
            "e.g. \"0.0.0.0:2762\", or empty for no TLS port",
        ),
        ("web.listen", web, "e.g. \"127.0.0.1:8080\", or empty for no web port"),
    ];
    for (key, listen, hint) in ports {
        let port = listen.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let off = key != "dicom.listen" && listen.is_empty();
        if port.is_none() && !off {
            problems.push(Problem::new(key, format!("{listen:?} is not address:port"), hint));
        }
    }
    if plain == encrypted && !plain.ends_with(":0") {
        problems.push(Problem::new(
            "dicom.tls.listen",
            "the same as dicom.listen",
            "TLS has a port of its own, 2762 by custom",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encrypted_port_is_optional_and_another_one() {
        let complaints = |plain: &str, encrypted: &str| {
            let mut written = Written::default();
            (written.dicom.listen, written.dicom.tls.listen) = (plain.into(), encrypted.into());
            let mut problems = Vec::new();
            check_ports(&written, &mut problems);
            problems.into_iter().map(|p| p.key).collect::<Vec<_>>()
        };
        assert_eq!(complaints("0.0.0.0:104", ""), Vec::<String>::new());
        assert_eq!(complaints("127.0.0.1:0", "0.0.0.0:2762"), Vec::<String>::new());
        assert_eq!(complaints("", "2762"), ["dicom.listen", "dicom.tls.listen"]);
        assert_eq!(complaints("0.0.0.0:104", "0.0.0.0:104"), ["dicom.tls.listen"]);
    }
}
