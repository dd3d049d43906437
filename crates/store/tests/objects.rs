//! Objects in, facts out: what each field means, what its absence means, and what an error says.

use std::net::IpAddr;
use std::ops::ControlFlow;

use weft_model::{Fact, Family, Overlay, Pod, Service, ServiceKind, Shape, TargetPort};
use weft_store::object::{Decoded, Interner, ObjectError, Outcome, decode_json, decode_yaml, documents};

fn decode_all(text: &str) -> Vec<Result<Outcome, String>> {
    let mut names = Interner::default();
    let mut outcomes = Vec::new();
    for document in documents(text) {
        let _ = decode_yaml(document.text, &mut names, &mut |outcome| {
            let line = |e: &ObjectError| document.lines_before + e.line.unwrap_or(0);
            outcomes.push(outcome.map_err(|e| format!("line {}: {e}", line(&e))));
            ControlFlow::Continue(())
        });
    }
    outcomes
}

fn decode_all_json(text: &str) -> Vec<Result<Outcome, String>> {
    let mut outcomes = Vec::new();
    let _ = decode_json(text, &mut Interner::default(), &mut |outcome| {
        outcomes.push(outcome.map_err(|e| format!("line {}: {e}", e.line.unwrap_or(0))));
        ControlFlow::Continue(())
    });
    outcomes
}

#[track_caller]
fn decoded(text: &str) -> Vec<Decoded> {
    let facts = |o| match o {
        Ok(Outcome::Facts(facts)) => facts,
        other => panic!("{other:?}"),
    };
    decode_all(text).into_iter().flat_map(facts).collect()
}

#[track_caller]
fn fact(text: &str) -> Fact {
    let mut all = decoded(text);
    assert_eq!(all.len(), 1);
    all.remove(0).fact
}

/// Why a service is refused.
#[track_caller]
fn service_error(spec: &str) -> String {
    let head = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n";
    decode_all(&format!("{head}{spec}")).remove(0).unwrap_err()
}

#[track_caller]
fn pod(text: &str) -> Pod {
    match fact(text) {
        Fact::Pod(pod) => pod,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn service(spec: &str) -> Service {
    let text =
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec:\n{spec}");
    match fact(&text) {
        Fact::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_has_what_the_network_needs() {
    let text = "
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  namespace: shop
  uid: 1d9f
  labels: {app: web, \"tier\": \"1\"}
  annotations: {weft.dev/network: blue, other: x}
spec:
  nodeName: node-1
  hostname: web-0
  subdomain: web
  nodeSelector: {y: n}
  initContainers:
  - {name: once, ports: [{name: gone, containerPort: 1}]}
  - {name: side, restartPolicy: Always, ports: [{name: metrics, containerPort: 9090}]}
  containers:
  - name: web
    ports:
    - {name: http, containerPort: 8080}
    - {containerPort: 9, hostPort: 90, hostIP: 192.0.2.1}
    - {name: dns, containerPort: 53, protocol: UDP}
status:
  phase: Running
  conditions: [{type: Ready, status: 'True'}, {type: Initialized, status: 'False'}]
  podIPs: [{ip: 10.1.0.5}, {ip: 'fd00::5'}]
";
    let all = decoded(text);
    assert_eq!(all[0].ready, Some(true));
    let pod = pod(text);
    assert_eq!(pod.key.to_string(), "shop/web-0");
    assert_eq!(pod.uid.as_deref(), Some("1d9f"));
    assert_eq!(pod.node.unwrap().as_str(), "node-1");
    assert_eq!(pod.network.as_str(), "blue");
    assert_eq!(pod.labels.get("tier"), Some("1"));
    assert_eq!(pod.ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.5", "fd00::5"]);
    assert_eq!((pod.hostname.as_deref(), pod.subdomain.as_deref()), (Some("web-0"), Some("web")));
    assert!(pod.ready && !pod.terminating && !pod.finished && !pod.host_network);
    let ports: Vec<_> =
        pod.named_ports.iter().map(|p| format!("{}={}/{}", p.name, p.port, p.protocol)).collect();
    assert_eq!(ports, ["http=8080/tcp", "dns=53/udp", "metrics=9090/tcp"]);
    let mapped = &pod.host_ports[0];
    assert_eq!((mapped.host_port.get(), mapped.container_port.get(), pod.host_ports.len()), (90, 9, 1));
    assert_eq!(mapped.host_ip.unwrap().to_string(), "192.0.2.1");
}

#[test]
fn what_a_pod_leaves_out_has_its_usual_meaning() {
    let least = pod("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: null\nspec: null\n");
    assert_eq!(least.key.to_string(), "default/a");
    assert_eq!(least.network.as_str(), "default");
    assert!(!least.ready && least.ips.is_empty() && least.node.is_none());
    let ended = pod(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, deletionTimestamp: \"2024-01-01T00:00:00Z\"}\n\
                     spec: {hostNetwork: true, containers: [{ports: [{containerPort: 9, hostPort: 9}]}]}\nstatus: {phase: Failed, podIP: 192.0.2.1}\n",
    );
    assert!(ended.finished && ended.terminating && ended.host_network && ended.host_ports.is_empty());
    assert_eq!(ended.ips.len(), 1);
}

#[test]
fn nodes_say_their_addresses_and_blocks() {
    let Fact::Node(node) = fact(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: n1\n  labels: {zone: a}\nspec: {podCIDR: 10.1.0.0/24, \
         podCIDRs: [10.1.0.0/24, 'fd00:1::/64']}\nstatus: {addresses: [{type: Hostname, address: n1}, \
         {type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: '2001:db8::1'}]}\n",
    ) else {
        panic!()
    };
    assert_eq!(node.address(Family::V6).unwrap().ip.to_string(), "2001:db8::1");
    assert_eq!(node.address(Family::V4).unwrap().prefix, None);
    assert_eq!(node.pod_cidrs.len(), 2);
    let Fact::Node(node) = fact(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: n1\n  annotations:\n    weft.dev/addresses: \"192.0.2.1/24, \
         2001:db8::1/64\"\n    weft.dev/vtep-mac: 02:00:00:00:00:01\n    weft.dev/pod-cidrs: \"blue=10.9.0.0/24\"\n\
         status: {addresses: [{type: InternalIP, address: 198.51.100.1}]}\n",
    ) else {
        panic!()
    };
    assert_eq!(
        node.address(Family::V4).map(|a| (a.ip.to_string(), a.prefix)),
        Some(("192.0.2.1".into(), Some(24)))
    );
    assert_eq!(node.published_vtep_mac.unwrap().to_string(), "02:00:00:00:00:01");
    assert_eq!(node.pod_cidrs[0].network.as_str(), "blue");
    assert!(!node.leaving);
}

#[test]
fn a_node_that_is_about_to_go_says_so() {
    let check = |metadata: &str, spec: &str, expected: bool| {
        let text =
            format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n1{metadata}}}\nspec: {{{spec}}}\n");
        let Fact::Node(node) = fact(&text) else { panic!() };
        assert_eq!(node.leaving, expected, "{text}");
    };
    check("", "taints: [{key: dedicated, effect: NoSchedule}]", false);
    check("", "taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]", true);
    check(", deletionTimestamp: '2026-01-01T00:00:00Z'", "", true);
}

#[test]
fn blocks_of_virtual_addresses_are_objects_of_their_own() {
    let of = |spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: more}}\nspec: {spec}\n"
        )
    };
    let Fact::ServiceCidr(blocks) = fact(&of("{cidrs: [10.97.0.0/16, 'fd00:97::/112']}")) else { panic!() };
    assert_eq!(blocks.name.as_str(), "more");
    assert_eq!(
        blocks.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.97.0.0/16", "fd00:97::/112"]
    );
    let check = |spec: &str, expected: &str| {
        let error = decode_all(&of(spec)).remove(0).unwrap_err();
        assert!(error.contains(&format!("servicecidr more: {expected}")), "{spec}: {error}");
    };
    check("{cidrs: [10.97.0.0/16, 10.98.0.0]}", "spec.cidrs[1]: ");
    check("{cidrs: [10.97.0.0/16, 10.98.0.0/16]}", "spec.cidrs: there is at most one");
    check("{}", "spec.cidrs: it is empty");
}

#[test]
fn services_have_the_api_servers_defaults() {
    let plain = service("  clusterIP: 10.96.0.10\n  selector: {app: web}\n  ports: [{port: 80}]\n");
    assert_eq!(plain.kind, ServiceKind::ClusterIp);
    assert_eq!(plain.families, [Family::V4]);
    assert_eq!(plain.ports[0].target, TargetPort::Number(plain.ports[0].port));
    assert_eq!(plain.selector.unwrap().get("app"), Some("web"));

    let headless = service("  clusterIP: None\n  ports: [{port: 80, targetPort: http}]\n");
    assert!(headless.headless && headless.cluster_ips.is_empty() && headless.selector.is_none());
    assert_eq!(headless.families, [Family::V4, Family::V6]);
    assert_eq!(headless.ports[0].target, TargetPort::Name("http".into()));

    let all = service(
        "  type: LoadBalancer\n  clusterIP: 'fd00::1'\n  clusterIPs: ['fd00::1', 10.96.0.1]\n  sessionAffinity: ClientIP\n\
         \x20 ports:\n  - {name: a, port: 80, targetPort: 8080, nodePort: 30080}\n  - {name: b, port: 53, protocol: UDP}\n\
         \x20 externalIPs: [198.51.100.9]\n  loadBalancerSourceRanges: [10.0.0.0/8]\n  externalTrafficPolicy: Local\n\
         \x20 healthCheckNodePort: 31000\n  trafficDistribution: PreferSameNode\n  publishNotReadyAddresses: true\n\
         status: {loadBalancer: {ingress: [{ip: 203.0.113.1, ipMode: Proxy}, {hostname: x}]}}\n",
    );
    assert_eq!(all.families, [Family::V6, Family::V4]);
    assert_eq!(all.affinity_seconds, Some(10_800));
    assert_eq!(all.ports[0].node_port.unwrap().get(), 30080);
    assert_eq!(all.load_balancer.len(), 1);
    assert!(all.publish_not_ready);

    let alias =
        service("  type: ExternalName\n  externalName: db.example.com.\n  selector: {app: ignored}\n");
    assert_eq!(alias.kind, ServiceKind::ExternalName("db.example.com".into()));
    assert_eq!(alias.selector, None);
}

/// What an API server has stored it gives out for ever, and one such word must not cost the whole object.
#[test]
fn addresses_are_taken_as_api_servers_take_them() {
    let web = service(
        "  clusterIP: 10.096.000.010\n  externalIPs: [198.051.100.009, '::ffff:198.51.100.8']\n\
         \x20 loadBalancerSourceRanges: [10.0.0.5/24, ' 010.001.0.0/16 ', 'fd00::5/64']\n  ports: [{port: 80}]\n",
    );
    let text = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&web.cluster_ips), ["10.96.0.10"]);
    assert_eq!(text(&web.external_ips), ["198.51.100.9", "198.51.100.8"]);
    let ranges: Vec<String> = web.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/24", "10.1.0.0/16", "fd00::/64"]);
    let Fact::EndpointSlice(slice) = fact(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x}\naddressType: IPv4\n\
         endpoints: [{addresses: [010.0.0.001]}]\n",
    ) else {
        panic!()
    };
    assert_eq!(text(&slice.endpoints[0].addresses), ["10.0.0.1"]);
    for wrong in ["10.0.0", "10.0.0.256", "10.0.0.1/8", "0x0a.0.0.1", "10..0.1", ""] {
        let error = service_error(&format!("  externalIPs: ['{wrong}']\n  ports: [{{port: 80}}]\n"));
        assert!(error.contains("spec.externalIPs[0]"), "{wrong}: {error}");
    }
    for wrong in ["10.0.0.0", "10.0.0.0/33", "all", "0x0a.0.0.0/8"] {
        let error =
            service_error(&format!("  loadBalancerSourceRanges: ['{wrong}']\n  ports: [{{port: 80}}]\n"));
        assert!(error.contains("spec.loadBalancerSourceRanges[0]"), "{wrong}: {error}");
    }
}

/// IPv4 inside IPv6 is IPv4, as it is for addresses; what reaches beyond it lets nobody in, and the others in.
#[test]
fn sources_of_ipv4_inside_ipv6_are_ipv4() {
    let check = |ranges: &str, expected: &[&str]| {
        let web = service(&format!("  loadBalancerSourceRanges: [{ranges}]\n  ports: [{{port: 80}}]\n"));
        let ranges: Vec<String> = web.source_ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, expected);
    };
    check("'::ffff:10.0.0.0/104', 192.0.2.0/24", &["10.0.0.0/8", "192.0.2.0/24"]);
    check("'::ffff:10.1.2.3/128'", &["10.1.2.3/32"]);
    check("'::ffff:10.1.2.3/96'", &["0.0.0.0/0"]);
    check("'::ffff:10.1.2.3/95', 192.0.2.0/24", &["::ffff:10.1.2.3/128", "192.0.2.0/24"]);
    check("'::ffff:10.1.2.3/0'", &["::ffff:10.1.2.3/128"]);
}

/// The API server allows neither, but a folder has none.
#[test]
fn a_service_has_each_port_once() {
    let check = |ports: &str, field: &str| {
        let error = service_error(&format!("  ports: {ports}\n"));
        assert!(error.contains(field), "{error}");
    };
    check("[{name: a, port: 80}, {name: b, port: 80}]", "spec.ports[1].port: 80/tcp");
    check(
        "[{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30080}]",
        "spec.ports[1].nodePort: 30080/tcp",
    );
    let both = service(
        "  ports: [{name: a, port: 53, nodePort: 30053}, {name: b, port: 53, nodePort: 30053, protocol: UDP}]\n",
    );
    assert_eq!(both.ports.len(), 2);
}

#[test]
fn absent_conditions_of_an_endpoint_count_as_true() {
    let Fact::EndpointSlice(slice) = fact(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-x, labels: \
         {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: http, port: 80}, {}]\nendpoints:\n\
         - {addresses: [10.0.0.1]}\n- {addresses: [10.0.0.2], conditions: {ready: false, serving: true, \
         terminating: true}, nodeName: n2, hints: {forZones: [{name: a}]}, targetRef: {kind: Pod, name: p}}\n",
    ) else {
        panic!()
    };
    assert_eq!(slice.service_key().unwrap().to_string(), "default/web");
    assert_eq!(slice.ports[1].port, None);
    let [first, second] = &slice.endpoints[..] else { panic!() };
    assert!(first.ready && first.serving && !first.terminating);
    assert!(!second.ready && second.serving && second.terminating);
    assert_eq!(second.pod.as_ref().unwrap().to_string(), "default/p");
}

#[test]
fn endpoints_become_a_slice_for_each_subset_and_family() {
    let all = decoded(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: db}\nsubsets:\n- addresses: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]\n\
         \x20 notReadyAddresses: [{ip: 10.0.0.2}]\n  ports: [{port: 5432}]\n",
    );
    let slices: Vec<String> = all
        .iter()
        .map(|d| match &d.fact {
            Fact::EndpointSlice(s) => {
                format!(
                    "{} {} {:?}",
                    s.key,
                    s.family,
                    s.endpoints.iter().map(|e| e.ready).collect::<Vec<_>>()
                )
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        slices,
        ["default/db.endpoints.0.ipv4 IPv4 [true, false]", "default/db.endpoints.0.ipv6 IPv6 [true]"]
    );
}

#[test]
fn networks_are_ours() {
    let Fact::Network(network) = fact(
        "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\nspec:\n  podCIDRs: [10.244.0.0/16, \
         'fd00:244::/48']\n  nodePrefixV4: 25\n  serviceCIDRs: [10.96.0.0/12]\n  shape: flat\n  overlay: host-gw\n  vni: 7\n\
         \x20 vxlanPort: 8472\n  noMasquerade: [192.168.0.0/16]\n  mtu: 1400\n",
    ) else {
        panic!()
    };
    assert_eq!((network.node_prefix_v4, network.node_prefix_v6), (25, 64));
    assert_eq!((network.shape, network.overlay), (Shape::Flat, Overlay::HostGw));
    assert_eq!((network.vni.get(), network.vxlan_port.get(), network.mtu), (7, 8472, Some(1400)));
}

#[test]
fn a_tunnel_gets_no_port_at_which_nodes_answer() {
    let text = "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\nspec: {vxlanPort: 53}\n";
    let said = decode_all(text).remove(0).unwrap_err();
    assert!(said.contains("spec.vxlanPort") && said.contains("give the tunnel another port"), "{said}");
}

#[test]
fn lists_hold_objects_and_unknown_kinds_are_passed_over() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: shop}\n\
                - apiVersion: v1\n  kind: ConfigMap\n  data: {n: y, 1: 2}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n\
                \x20 spec:\n    ports:\n    - port: 0\n---\napiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: p}\n---\n\
                apiVersion: apps/v1\nkind: Deployment\nspec: {selector: {matchLabels: {}}}\n";
    let outcomes: Vec<String> = decode_all(text)
        .into_iter()
        .map(|o| match o {
            Ok(Outcome::Facts(facts)) => {
                facts.iter().map(|f| f.fact.key().to_string()).collect::<Vec<_>>().join(",")
            }
            Ok(Outcome::Unknown(u)) => format!("unknown {} {}", u.api_version, u.kind),
            Err(e) => e,
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            "namespace shop",
            "unknown v1 ConfigMap",
            "line 15: service default/a: items[2].spec.ports[0].port: \"0\" is no valid port: it must be 1 to 65535",
            "pod default/p",
            "unknown apps/v1 Deployment",
        ]
    );
}

#[track_caller]
fn check_error(text: &str, expected: &str) {
    let errors: Vec<String> = decode_all(text).into_iter().filter_map(Result::err).collect();
    assert_eq!(errors, [expected]);
}

#[test]
fn an_error_names_line_object_field_value_and_mend() {
    let head = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec:\n";
    check_error(
        &format!("{head}  ports:\n  - port: 80\n    name: a\n  - name: b\n    port: 70000\n"),
        "line 11: service shop/web: spec.ports[1].port: \"70000\" is no valid port: it must be 1 to 65535",
    );
    check_error(
        &format!("{head}  ports:\n  - port: http\n"),
        "line 8: service shop/web: spec.ports[0].port: a whole number is wanted, and this is the text \"http\"",
    );
    check_error(
        &format!("{head}  clusterIP: 10.96.0.300\n"),
        "line 7: service shop/web: spec.clusterIP: \"10.96.0.300\" is no IP address",
    );
    check_error(
        &format!("{head}  type: Clusterip\n"),
        "line 7: service shop/web: spec.type: \"Clusterip\" is unknown; use ClusterIP, NodePort, LoadBalancer or ExternalName",
    );
    check_error(
        "---\nkind: Namespace\nmetadata: {name: x}\n",
        "line 2: apiVersion: it is missing; every Kubernetes object has it (is this another kind of file? move it elsewhere)",
    );
    check_error(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: Web}\n",
        "line 3: pod default/Web: metadata.name: \"Web\" is no valid object name: only a-z, 0-9 and dashes are allowed",
    );
    check_error(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels:\n    version: 1\n",
        "line 6: pod default/web: metadata.labels.version: a text is wanted, and this is the number 1; put it in quotes",
    );
    check_error(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: n1\n  annotations:\n    weft.dev/addresses: nowhere\n",
        "line 6: node n1: metadata.annotations[\"weft.dev/addresses\"]: \"nowhere\" is no address; write ADDRESS/PREFIX, such as 192.0.2.1/24",
    );
    check_error(
        "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\nspec:\n  podCIDRs: [10.244.0.1/16]\n",
        "line 5: network default: spec.podCIDRs[0]: \"10.244.0.1/16\" is no valid CIDR: bits below the prefix are set; write 10.244.0.0/16",
    );
    check_error(
        "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\nspec:\n  podCIDRs: [10.244.0.0/16]\n  nodePrefixV4: 8\n",
        "line 6: network default: spec.nodePrefixV4: 8 is no share inside 10.244.0.0/16; it must be 16 to 30",
    );
}

#[test]
fn blocks_and_addresses_that_no_machine_can_have_are_refused() {
    check_error(
        "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\nspec:\n  podCIDRs: [0.0.0.0/0]\n",
        "line 5: network default: spec.podCIDRs[0]: \"0.0.0.0/0\" is no valid block for pods: it overlaps 0.0.0.0/8 \
         (this network); use private addresses, such as 10.244.0.0/16 or fd00:244::/48",
    );
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";
    check_error(
        &format!("{node}spec:\n  podCIDRs: [127.0.0.0/24]\n"),
        "line 5: node n1: spec.podCIDRs[0]: \"127.0.0.0/24\" is no valid block for pods: it overlaps 127.0.0.0/8 \
         (loopback); use private addresses, such as 10.244.0.0/16 or fd00:244::/48",
    );
    check_error(
        &format!("{node}status:\n  addresses:\n  - {{type: InternalIP, address: 0.0.0.0}}\n"),
        "line 6: node n1: status.addresses[0].address: \"0.0.0.0\" is no valid machine's address: \
         other machines can't reach one by it",
    );
}

#[test]
fn one_broken_document_leaves_the_others() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: [\n---\n\
                apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";
    let outcomes = decode_all(text);
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    assert!(outcomes[1].as_ref().unwrap_err().starts_with("line "), "{outcomes:?}");
}

#[test]
fn json_is_read_as_well() {
    let text = "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"a\"}}\n{\"apiVersion\":\"v1\",\n\"kind\":\"Pod\",\n\"metadata\":{\"name\":\"A\"}}\n{";
    let outcomes = decode_all_json(text);
    assert!(outcomes[0].is_ok());
    let error = |at: usize| outcomes[at].as_ref().unwrap_err();
    assert!(error(1).starts_with("line 4: pod default/A: metadata.name: "), "{}", error(1));
    assert!(error(2).starts_with("line 5: this is not JSON"), "{}", error(2));
}

#[test]
fn aliases_do_not_multiply() {
    let mut text = String::from("apiVersion: v1\nkind: List\na: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "f"), ("f", "g")] {
        text.push_str(&format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 10].join(",")));
    }
    let began = std::time::Instant::now();
    assert!(decode_all(&text)[0].is_err());
    assert!(began.elapsed().as_secs() < 2);
}

const SAMPLE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, labels: {a: \"1\"}}\nspec:\n  clusterIP: 10.96.0.1\n\
                      \x20 ports:\n  - {name: a, port: 80, targetPort: http}\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n\
                      \x20 kind: Pod\n  metadata:\n    name: p\n    annotations:\n      weft.dev/network: |\n        blue\n";

/// A list with one object of each kind, as JSON.
fn one_of_each() -> serde_json::Value {
    let text = include_str!("every-kind.yaml");
    let items: Vec<serde_json::Value> =
        documents(text).map(|document| serde_saphyr::from_str(document.text).unwrap()).collect();
    serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// The values of a tree, the root first.
fn pointers(value: &serde_json::Value, at: &str, all: &mut Vec<String>) {
    use serde_json::Value;
    all.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| pointers(item, &format!("{at}/{i}"), all));
        }
        Value::Object(fields) => {
            let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
            fields.iter().for_each(|(key, item)| pointers(item, &format!("{at}/{}", escaped(key)), all));
        }
        _ => {}
    }
}

fn keys(outcomes: &[Result<Outcome, String>]) -> Vec<String> {
    let facts = outcomes.iter().filter_map(|outcome| match outcome {
        Ok(Outcome::Facts(facts)) => Some(facts),
        _ => None,
    });
    facts.flatten().map(|decoded| decoded.fact.key().to_string()).collect()
}

/// Whatever value of an object is of another type than it should be: that is an error, or it is one that isn't read.
#[test]
fn a_value_of_another_type_never_makes_an_object_vanish() {
    use serde_json::{Value, json};
    let whole = one_of_each();
    let expected = keys(&decode_all_json(&whole.to_string()));
    let mut places = Vec::new();
    pointers(&whole, "", &mut places);
    assert!(expected.len() > 6 && places.len() > 100, "{expected:?}");
    let is_same_type = |a: &Value, b: &Value| std::mem::discriminant(a) == std::mem::discriminant(b);
    for place in &places {
        for junk in
            [json!(7), json!(-1.5), json!(true), json!(["v1", "Service"]), json!({"a": []}), json!("?")]
        {
            let mut broken = whole.clone();
            let value = broken.pointer_mut(place).unwrap();
            if is_same_type(value, &junk) && !junk.is_string() {
                continue;
            }
            *value = junk.clone();
            let json = broken.to_string();
            // JSON is YAML, too.
            for outcomes in [decode_all_json(&json), decode_all(&json)] {
                let found = keys(&outcomes);
                let is_told = outcomes.iter().any(Result::is_err);
                // Another name is another object, and a list's text alone says what is in it.
                assert!(
                    is_told || expected.iter().all(|key| found.contains(key)),
                    "{place} {junk}: {outcomes:?}"
                );
            }
        }
    }
}

proptest::proptest! {
    /// Any damage gives facts or errors, and never a panic.
    #[test]
    fn damaged_text_never_panics(cut in 0..SAMPLE.len(), to in 0..SAMPLE.len(), junk in "[\\PC\n\t ]{0,12}") {
        let text = format!("{}{junk}{}", &SAMPLE[..cut], &SAMPLE[to..]);
        let count = decode_all(&text).len();
        proptest::prop_assert!(count <= text.len());
        decode_all_json(&text);
    }

    /// What the languages have signs for, anywhere: YAML and JSON of all shapes.
    #[test]
    fn signs_of_the_languages_never_panic(text in "(apiVersion: v1\n|kind: (Service|List|Pod)\n|items:|- |\\[|\\{|\\}|\\]|, |: |\\? |\n|  |&a |\\*a|<<: |!!(int|binary|str) |[|>]|'|\"|#|---\n|0[0-7]|\\.nan|~|metadata|name){0,40}") {
        decode_all(&text);
        decode_all_json(&text);
    }
}
