//! The real `dig`.

use std::process::Command;

use super::server;
use weft_dns::{Handle, UpstreamSource};

/// What `dig` prints, or nothing where there is no `dig`.
fn dig(server: &Handle, arguments: &str) -> Option<String> {
    let address = server.addresses()[0];
    let output = Command::new("dig")
        .arg(format!("@{}", address.ip()))
        .args(["-p", &address.port().to_string(), "+tries=1", "+time=5"])
        .args(arguments.split(' '))
        .output();
    match output {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap().trim_end().to_owned()),
        Err(error) => {
            eprintln!("SKIPPED: dig can't be run ({error}); install bind9-dnsutils");
            None
        }
    }
}

#[test]
fn dig_reads_our_replies() {
    let server = server(UpstreamSource::Fixed(Vec::new()));
    let check = |arguments: &str, wanted: &[&str]| {
        let Some(output) = dig(&server, arguments) else { return };
        for wanted in wanted {
            assert!(output.contains(wanted), "dig {arguments}: no {wanted:?} in\n{output}");
        }
        // dig warns of the name `.local` itself.
        let warnings = output.matches("WARNING").count() - output.matches("WARNING: .local").count();
        assert!(warnings == 0 && !output.contains("malformed"), "dig {arguments}:\n{output}");
    };
    check("+short web.default.svc.cluster.local", &["10.96.0.1"]);
    check("+short +tcp web.default.svc.cluster.local AAAA", &["fd00::1"]);
    check(
        "+short +keepopen +tcp db.default.svc.cluster.local web.default.svc.cluster.local",
        &["10.1.0.1", "10.96.0.1"],
    );
    check("+short -x 10.96.0.1", &["web.default.svc.cluster.local."]);
    check("+short -x fd00::1", &["web.default.svc.cluster.local."]);
    check("+short dns-version.cluster.local TXT", &["\"1.1.0\""]);
    check(
        "_http._tcp.web.default.svc.cluster.local SRV",
        &[
            "status: NOERROR",
            "flags: qr aa rd ra",
            "ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 3",
            "0 100 80 web.default",
        ],
    );
    check("nobody.cluster.local", &["status: NXDOMAIN", "SOA\tns.dns.cluster.local.", "udp: 1232"]);
    check("+cookie web.default.svc.cluster.local", &["status: NOERROR"]);
    check("+edns=1 +noednsneg web.default.svc.cluster.local", &["status: BADVERS"]);
    check("+noedns +header-only web.default.svc.cluster.local", &["status: FORMERR"]);
    check("+noedns +opcode=notify web.default.svc.cluster.local", &["status: NOTIMP"]);
    check("CH version.bind TXT", &["status: REFUSED"]);
    check("www.example.com", &["status: SERVFAIL", "no upstream resolver is configured"]);
    check("cluster.local AXFR", &["Transfer failed"]);
}
