//! `CNI_ARGS`: extra arguments as `KEY=VALUE` pairs joined by semicolons.
//!
//! Source: CNI specification 1.1.0 §2 "Parameters" and CONVENTIONS.md. Kubernetes runtimes put the pod's name and
//! namespace here. An argument that nobody understands is an error, unless `IgnoreUnknown` is set: a mistyped `IP`
//! must not give an address at random.

use std::net::IpAddr;

use crate::error::{CniError, Code};
use crate::prefix::IpPrefix;

/// The pod that a container belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodArgs {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`, where the runtime gives it.
    pub uid: Option<String>,
}

/// The arguments that we know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniArgs {
    /// The pod; nothing where namespace or name is missing, as without Kubernetes.
    pub pod: Option<PodArgs>,
    /// `IP`: addresses asked for, joined by commas; a prefix length is allowed and means nothing.
    pub ips: Vec<IpAddr>,
    /// `MAC`, as written.
    pub mac: Option<String>,
}

fn invalid(msg: String, details: &str) -> CniError {
    CniError::new(Code::INVALID_ENVIRONMENT, msg, details)
}

impl CniArgs {
    /// Reads the variable's value; empty text has no arguments.
    ///
    /// # Errors
    /// [`Code::INVALID_ENVIRONMENT`] for what is no pair, a value that can't be read, or an unknown argument
    /// without `IgnoreUnknown`.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let (mut namespace, mut name, mut uid, mut ips, mut mac) = (None, None, None, None, None);
        let mut ignore_unknown = false;
        let mut unknown = Vec::new();
        for pair in text.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(invalid(
                    format!("CNI_ARGS holds {pair:?}"),
                    "write KEY=VALUE pairs joined by semicolons",
                ));
            };
            let value = Some(value).filter(|value| !value.is_empty());
            match key {
                "K8S_POD_NAMESPACE" => namespace = value,
                "K8S_POD_NAME" => name = value,
                "K8S_POD_UID" => uid = value,
                "IP" => ips = value,
                "MAC" => mac = value,
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IgnoreUnknown" => ignore_unknown = switch(value.unwrap_or_default())?,
                other => unknown.push(other),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            let unknown = unknown.join(", ");
            let mend = "correct the name, or add IgnoreUnknown=1";
            return Err(invalid(format!("CNI_ARGS holds unknown arguments: {unknown}"), mend));
        }
        let pod = namespace.zip(name).map(|(namespace, name)| PodArgs {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.map(str::to_owned),
        });
        let ips = ips.map(addresses).transpose()?.unwrap_or_default();
        Ok(Self { pod, ips, mac: mac.map(str::to_owned) })
    }
}

fn switch(value: &str) -> Result<bool, CniError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" | "" => Ok(false),
        _ => Err(invalid(format!("CNI_ARGS has IgnoreUnknown={value:?}"), "write 1, 0, true or false")),
    }
}

fn addresses(list: &str) -> Result<Vec<IpAddr>, CniError> {
    let address = |text: &str| {
        let parsed = text.trim().parse::<IpPrefix>();
        parsed
            .map(|p| p.address)
            .map_err(|error| invalid("CNI_ARGS has an IP that can't be read".into(), &error.to_string()))
    };
    list.split(',').map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_runtimes_are_read() {
        let check = |text: &str, expected: CniArgs| assert_eq!(CniArgs::parse(text), Ok(expected), "{text}");
        let pod = |uid: Option<&str>| {
            Some(PodArgs { namespace: "shop".into(), name: "web-0".into(), uid: uid.map(str::to_owned) })
        };
        check("", CniArgs::default());
        check(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=u-1",
            CniArgs { pod: pod(Some("u-1")), ..CniArgs::default() },
        );
        check(
            "K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=shop;X=y;IgnoreUnknown=true",
            CniArgs { pod: pod(None), ..CniArgs::default() },
        );
        // Podman names the container as the pod, and no namespace.
        check("IgnoreUnknown=1;K8S_POD_NAME=box", CniArgs::default());
        check("K8S_POD_NAMESPACE=;K8S_POD_NAME=web-0;K8S_POD_UID=", CniArgs::default());
        let asked = CniArgs {
            ips: vec![[10, 0, 0, 7].into(), "fd00::7".parse().unwrap()],
            mac: Some("02:00:00:00:00:01".into()),
            pod: None,
        };
        check("IP=10.0.0.7/24,fd00::7;MAC=02:00:00:00:00:01;", asked);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expected: &str| {
            let error = CniArgs::parse(text).unwrap_err();
            assert_eq!((error.code, error.msg.as_str()), (Code(4), expected), "{text}");
        };
        check("K8S_POD_NAME", "CNI_ARGS holds \"K8S_POD_NAME\"");
        check("IPS=10.0.0.7;FOO=1", "CNI_ARGS holds unknown arguments: IPS, FOO");
        check("IP=10.0.0", "CNI_ARGS has an IP that can't be read");
        check("IgnoreUnknown=maybe", "CNI_ARGS has IgnoreUnknown=\"maybe\"");
    }
}
