//! Certificates for tests, made by the program openssl.

use std::path::Path;
use std::process::Command;

/// Whose the client's certificate is.
pub const CLIENT: &str = "weft-test";

/// Two CAs, and certificates that the first has signed: `NAME.crt` and `NAME.key`. False without the program.
pub fn certificates(folder: &Path) -> bool {
    let openssl = |arguments: &str| {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().ok()?;
        assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
        Some(())
    };
    let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
    std::fs::write(folder.join("extensions"), extensions).unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let made = || {
        for ca in ["ca", "impostor"] {
            openssl(&format!("req -x509 {key} -subj /CN={ca} -days 2 -keyout {ca}.key -out {ca}.crt"))?;
        }
        for (name, subject) in [("server", "server"), ("client", CLIENT)] {
            openssl(&format!("req -new {key} -subj /CN={subject} -keyout {name}.key -out {name}.csr"))?;
            openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.crt"
            ))?;
        }
        Some(())
    };
    let are_made = made().is_some();
    if !are_made {
        println!("SKIPPED: no openssl, so there are no certificates: apt-get install openssl");
    }
    are_made
}
