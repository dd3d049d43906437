//! `store.etcd`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_store::{EtcdOptions, EtcdTls, EtcdUser};

/// Where etcd is. Only `endpoints` is required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EtcdConfig {
    /// Addresses of members, `https://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// Certificates of those who vouch for the servers, PEM; needed for `https`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Our certificate, PEM, where the servers want one.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The user, where etcd's authentication is enabled.
    #[serde(default)]
    pub username: Option<String>,
    /// A file with the user's password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// How long a node's keys stay after it was last heard of.
    #[serde(default = "default_lease")]
    pub lease_seconds: u64,
}

fn default_prefix() -> String {
    EtcdOptions::default().prefix
}

fn default_lease() -> u64 {
    EtcdOptions::default().lease.as_secs()
}

/// A field that is wrong, and how to mend it.
type Wrong = (&'static str, String);

impl EtcdConfig {
    /// The store's options.
    ///
    /// # Errors
    /// The field that is wrong, and the mend.
    pub fn options(&self) -> Result<EtcdOptions, Wrong> {
        let needs = |field: &'static str, other: &str| {
            Err((field, format!("it is needed with {other}; give both or neither")))
        };
        let own = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (Some(_), None) => return needs("store.etcd.keyFile", "certFile"),
            (None, Some(_)) => return needs("store.etcd.certFile", "keyFile"),
            (None, None) => None,
        };
        let tls = match &self.ca_file {
            Some(ca_file) => Some(EtcdTls { ca_file: ca_file.clone(), own }),
            None if own.is_some() => return needs("store.etcd.caFile", "certFile"),
            None => None,
        };
        let user = match (&self.username, &self.password_file) {
            (Some(name), Some(file)) => Some(EtcdUser { name: name.clone(), password_file: file.clone() }),
            (Some(_), None) => return needs("store.etcd.passwordFile", "username"),
            (None, Some(_)) => return needs("store.etcd.username", "passwordFile"),
            (None, None) => None,
        };
        let options = EtcdOptions {
            endpoints: self.endpoints.clone(),
            prefix: self.prefix.clone(),
            tls,
            user,
            lease: Duration::from_secs(self.lease_seconds),
            ..EtcdOptions::default()
        };
        options.check()?;
        Ok(options)
    }

    /// The files that are named, with their fields.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let files = [
            ("store.etcd.caFile", &self.ca_file),
            ("store.etcd.certFile", &self.cert_file),
            ("store.etcd.keyFile", &self.key_file),
            ("store.etcd.passwordFile", &self.password_file),
        ];
        files.into_iter().filter_map(|(field, file)| Some((field, file.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_held_to_each_other() {
        let check = |text: &str, expected: Result<(), &str>| {
            let config: EtcdConfig = serde_saphyr::from_str(text).unwrap();
            let found = config.options().map(drop).map_err(|(field, _)| field);
            assert_eq!(found, expected, "{text}");
        };
        check("endpoints: [http://127.0.0.1:2379]", Ok(()));
        check("{endpoints: [https://e:2379], caFile: /ca}", Ok(()));
        check("{endpoints: [https://e:2379], caFile: /ca, certFile: /c, keyFile: /k}", Ok(()));
        check("{endpoints: [https://e:2379], caFile: /ca, username: weft, passwordFile: /p}", Ok(()));
        // A password over the network needs TLS.
        let with_user =
            |endpoints: &str| format!("{{endpoints: [{endpoints}], username: weft, passwordFile: /p}}");
        check(&with_user("http://127.0.0.1:2379"), Ok(()));
        check(&with_user("'http://[::1]:2379', http://localhost:2379"), Ok(()));
        check(&with_user("http://127.0.0.1:2379, http://e:2379"), Err("store.etcd.endpoints"));
        check(&with_user("http://192.0.2.1:2379"), Err("store.etcd.endpoints"));
        check("endpoints: ['http://weft:secret@e:2379']", Err("store.etcd.endpoints"));
        check("endpoints: []", Err("store.etcd.endpoints"));
        check("endpoints: [127.0.0.1:2379]", Err("store.etcd.endpoints"));
        check("endpoints: [https://e:2379]", Err("store.etcd.caFile"));
        check("{endpoints: [https://e:2379], caFile: /ca, certFile: /c}", Err("store.etcd.keyFile"));
        check("{endpoints: [http://e:2379], certFile: /c, keyFile: /k}", Err("store.etcd.caFile"));
        check("{endpoints: [http://e:2379], username: weft}", Err("store.etcd.passwordFile"));
        check("{endpoints: [http://e:2379], passwordFile: /p}", Err("store.etcd.username"));
        check("{endpoints: [http://e:2379], prefix: weft}", Err("store.etcd.prefix"));
        check("{endpoints: [http://e:2379], prefix: /}", Err("store.etcd.prefix"));
        check("{endpoints: [http://e:2379], leaseSeconds: 1}", Err("store.etcd.leaseSeconds"));
    }
}
