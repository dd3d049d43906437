//! A node whose pods are on the bridge plugin's bridge, with host-local's leases.

use std::sync::Arc;

use weft_lab::runtime::Runtime;
use weft_lab::sandbox::in_sandbox;

use crate::site::{KILLED, Site, cache};

const CONFLIST: &str = r#"{"cniVersion": "1.0.0", "name": "old", "plugins": [{"type": "bridge", "bridge": "cni0",
  "isDefaultGateway": true, "hairpinMode": true, "ipam": {"type": "host-local",
  "ranges": [[{"subnet": "10.42.1.0/24"}], [{"subnet": "fd42:0:0:1::/64"}]]}}]}"#;

/// The same with a bridge that has no address, and one pod on it that can't move.
const NO_GATEWAY: &str = r#"{"cniVersion": "1.0.0", "name": "old", "plugins": [{"type": "bridge", "bridge": "cni0",
  "isGateway": false, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.42.1.0/24"}]]}}]}"#;

const BRIDGE: &str = "/usr/lib/cni/bridge";

const CLUSTER: &str = "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\nspec:\n  \
  podCIDRs: [10.42.0.0/16, \"fd42::/48\"]\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec:\n  \
  podCIDRs: [10.42.1.0/24, \"fd42:0:0:1::/64\"]\n";

fn has_bridge(test: &str) -> bool {
    let has = std::path::Path::new(BRIDGE).exists();
    if !has {
        println!("SKIPPED: {test}: no {BRIDGE} (Debian's containernetworking-plugins)");
    }
    has
}

#[test]
fn a_node_of_the_bridge_plugin_moves_in_with_its_pods() {
    if !has_bridge("a_node_of_the_bridge_plugin_moves_in_with_its_pods") {
        return;
    }
    in_sandbox("bridge::a_node_of_the_bridge_plugin_moves_in_with_its_pods", || {
        let site = Site::start("moving-bridge", 2);
        site.fact("00-cluster.yaml", CLUSTER);
        let (n1, n2) = (site.node("n1"), site.node("n2"));
        let theirs = Arc::new(Runtime::new(n2));
        let far_agent = site.start_agent("n2", &theirs);
        let far = site.pod(&theirs, "far");
        n1.sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])
            .expect("it forwards");
        n1.run("mkdir", &["-p", "/etc/cni/net.d"]).expect("it can be made");
        std::fs::write(n1.path("/etc/cni/net.d/05-old.conflist"), CONFLIST).expect("it can be written");
        let runtime = Arc::new(Runtime::new(Arc::clone(&n1)));
        let (a, b) = (site.pod(&runtime, "a"), site.pod(&runtime, "b"));
        cache(&n1, "old", &a);
        cache(&n1, "old", &b);
        site.all_reach_all("before", &[&a, &b]);

        let agent = site.under_traffic(&a, &[&b], KILLED, || {
            // Killed after the first link was taken, and then twice at once: one of them does the rest.
            let killed = site.migrate("n1", "migrate:taken");
            assert!(killed.is_err(), "{killed:?}");
            let said = std::thread::scope(|scope| {
                let calls = [0, 1].map(|_| scope.spawn(|| site.migrate("n1", "")));
                calls.map(|call| call.join().expect("it ends"))
            });
            assert!(said.iter().any(Result::is_ok), "{said:?}");
            println!("{}", said.iter().flatten().next().expect("one succeeded"));
            site.start_agent("n1", &runtime)
        });
        let again = site.migrate("n1", "");
        assert!(again.is_err_and(|said| said.contains("stop it first")), "an agent runs");
        let new = site.pod(&runtime, "new");
        assert!(new.addresses()[0].to_string().starts_with("10.42.1."), "{:?}", new.addresses());
        site.all_reach_all("after", &[&a, &b, &new, &far]);
        assert_eq!(agent.differences().expect("it compares"), Vec::<String>::new());
        a.check().expect("an old pod is as an ADD would have left it");
        runtime.gc().expect("GC works");
        site.all_reach_all("after GC", &[&a, &b, &new, &far]);
        let links = n1.run("ip", &["-o", "link"]).expect("links can be listed");
        assert!(!links.contains("cni0") && !links.contains("veth"), "{links}");
        let known = agent.status().expect("it answers").to_string();
        assert!(
            known.contains("test/a") && known.contains("test/b"),
            "the cache says whose they are: {known}"
        );

        for pod in [a, b, new, far] {
            pod.stop().expect("DEL works");
        }
        let links = n1.run("ip", &["-o", "link"]).expect("links can be listed");
        assert!(!links.contains("weftp"), "{links}");
        let leases = n1.run("ls", &["/var/lib/cni/networks/weft/default"]).expect("leases can be listed");
        assert!(!leases.contains("10.42.1."), "{leases}");
        drop((agent, far_agent, runtime, theirs, n1));
        println!("{}", site.lab.close().expect("nothing is left"));
    });
}

#[test]
fn the_address_of_a_pod_that_stays_is_given_to_no_other() {
    if !has_bridge("the_address_of_a_pod_that_stays_is_given_to_no_other") {
        return;
    }
    in_sandbox("bridge::the_address_of_a_pod_that_stays_is_given_to_no_other", || {
        let site = Site::start("moving-partly", 1);
        site.fact(
            "00-cluster.yaml",
            &CLUSTER.replace(", \"fd42:0:0:1::/64\"", "").replace(", \"fd42::/48\"", ""),
        );
        let n1 = site.node("n1");
        n1.run("mkdir", &["-p", "/etc/cni/net.d"]).expect("it can be made");
        std::fs::write(n1.path("/etc/cni/net.d/05-old.conflist"), NO_GATEWAY).expect("it can be written");
        let runtime = Arc::new(Runtime::new(Arc::clone(&n1)));
        let stays = site.pod(&runtime, "stays");
        cache(&n1, "old", &stays);
        let ports = n1.run("ip", &["-o", "link", "show", "master", "cni0"]).expect("ports can be listed");
        let port =
            ports.split(": ").nth(1).and_then(|name| name.split('@').next()).expect("the pod's is one");
        n1.run("ip", &["link", "set", port, "nomaster"]).expect("it leaves the bridge");
        let said = site.migrate("n1", "").expect_err("one pod can't move");
        assert!(said.contains("is on no bridge"), "{said}");

        let agent = site.start_agent("n1", &runtime);
        let new = ["a", "b", "c"].map(|name| site.pod(&runtime, name));
        let given: Vec<_> = new.iter().flat_map(weft_lab::Pod::addresses).collect();
        assert!(!given.contains(&&stays.addresses()[0]), "{given:?}, {:?}", stays.addresses());
        runtime.gc().expect("GC works");
        let address = stays.addresses()[0].to_string();
        let is_held = || {
            let leases = n1.run("ls", &["/var/lib/cni/networks/weft/default"]).expect("leases can be listed");
            leases.lines().any(|name| name == address)
        };
        assert!(is_held(), "GC leaves it");
        stays.stop().expect("DEL works");
        assert!(agent.stop(), "the agent ends");
        println!("{}", site.migrate("n1", "").expect("nothing is left"));
        assert!(!is_held(), "its pod is gone");
        drop((new, agent, runtime, n1));
        println!("{}", site.lab.close().expect("nothing is left"));
    });
}

#[test]
fn a_migration_that_stops_says_what_is_done() {
    if !has_bridge("a_migration_that_stops_says_what_is_done") {
        return;
    }
    in_sandbox("bridge::a_migration_that_stops_says_what_is_done", || {
        let site = Site::start("moving-stops", 1);
        site.fact("00-cluster.yaml", CLUSTER);
        let n1 = site.node("n1");
        n1.run("mkdir", &["-p", "/etc/cni/net.d"]).expect("it can be made");
        std::fs::write(n1.path("/etc/cni/net.d/05-old.conflist"), CONFLIST).expect("it can be written");
        let runtime = Arc::new(Runtime::new(Arc::clone(&n1)));
        let pod = site.pod(&runtime, "a");
        cache(&n1, "old", &pod);
        // What cannot be cleared away behind the pod, once it has moved.
        let results = "/var/lib/cni/results";
        let kept = n1.run("ls", &[results]).expect("results can be listed");
        let kept = format!("{results}/{}", kept.trim());
        n1.run("rm", &[&kept]).expect("it can be removed");
        n1.run("mkdir", &[&kept]).expect("it can be made");
        let said = site.migrate("n1", "").expect_err("it stops");
        println!("{said}");
        for part in [
            "  moved",
            "set aside: /etc/cni/net.d/05-old.conflist.before-weft",
            "stopped: cannot ",
            "type `weft migrate` again",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        n1.run("rmdir", &[&kept]).expect("it can be removed");
        println!("{}", site.migrate("n1", "").expect("it does the rest"));
        let agent = site.start_agent("n1", &runtime);
        pod.stop().expect("DEL works");
        drop((agent, runtime, n1));
        println!("{}", site.lab.close().expect("nothing is left"));
    });
}
