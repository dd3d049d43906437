//! The files that the parts of Kubernetes are started with, as text.

use std::net::IpAddr;

use super::DNS_ADDRESS;

/// Name and password (a static token) of somebody the API server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub token: String,
    pub group: &'static str,
}

impl User {
    /// May do everything.
    pub fn admin() -> Self {
        Self { name: "admin".into(), token: "admin-token".into(), group: "system:masters" }
    }

    /// A node's kubelet, which may do what the API server allows a node.
    pub fn kubelet(node: &str) -> Self {
        Self { name: format!("system:node:{node}"), token: format!("{node}-token"), group: "system:nodes" }
    }
}

/// The API server's list of users (`--token-auth-file`).
pub fn tokens(users: &[User]) -> String {
    users
        .iter()
        .map(|user| format!("{},{name},{name},\"{}\"\n", user.token, user.group, name = user.name))
        .collect()
}

/// A kubeconfig. `authority` is the path of the certificates by which the server is known.
pub fn kubeconfig(server: IpAddr, authority: &str, user: &User) -> String {
    let (name, token) = (&user.name, &user.token);
    format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: lab, cluster: {{server: \"https://{server}:6443\", certificate-authority: {authority}}}}}]\n\
         users: [{{name: \"{name}\", user: {{token: \"{token}\"}}}}]\n\
         contexts: [{{name: lab, context: {{cluster: lab, user: \"{name}\"}}}}]\ncurrent-context: lab\n"
    )
}

/// A kubelet's configuration. Kubelets of one kernel need a control group each, or they end each other's pods as orphans.
pub fn kubelet(cgroup: &str) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}\n\
         authorization: {{mode: AlwaysAllow}}\n\
         cgroupDriver: cgroupfs\ncgroupRoot: /{cgroup}\ncgroupsPerQOS: true\nenforceNodeAllocatable: [pods]\n\
         failCgroupV1: false\nclusterDNS: [\"{DNS_ADDRESS}\"]\nclusterDomain: cluster.local\n\
         containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n\
         evictionHard: {{memory.available: \"100Mi\", nodefs.available: \"1%\", imagefs.available: \"1%\"}}\n\
         failSwapOn: false\nresolvConf: /etc/resolv.conf\nmaxPods: 200\nmakeIPTablesUtilChains: false\n\
         serializeImagePulls: false\nshutdownGracePeriod: 0s\n"
    )
}

/// containerd's configuration. Root in a container of its own may not lower its processes' OOM score. Pods' loopback links are
/// containerd's own work, as no plugin for them is installed.
pub const CONTAINERD: &str = "\
version = 3
root = \"/var/lib/containerd\"
state = \"/run/containerd\"
[grpc]
address = \"/run/containerd/containerd.sock\"
[metrics]
address = \"127.0.0.1:1338\"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = \"registry.k8s.io/pause:3.10.2\"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
use_internal_loopback = true
bin_dirs = [\"/opt/cni/bin\"]
conf_dir = \"/etc/cni/net.d\"
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_names_server_authority_and_user() {
        let text = kubeconfig(IpAddr::from([192, 0, 2, 10]), "/etc/kubernetes/ca.crt", &User::kubelet("n1"));
        insta::assert_snapshot!(text, @r#"
        apiVersion: v1
        kind: Config
        clusters: [{name: lab, cluster: {server: "https://192.0.2.10:6443", certificate-authority: /etc/kubernetes/ca.crt}}]
        users: [{name: "system:node:n1", user: {token: "n1-token"}}]
        contexts: [{name: lab, context: {cluster: lab, user: "system:node:n1"}}]
        current-context: lab
        "#);
        assert_eq!(tokens(&[User::admin()]), "admin-token,admin,admin,\"system:masters\"\n");
    }
}
