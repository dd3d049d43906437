//! What an ADD may not have: another's address or port, the gateway's MAC address.

use super::*;

#[track_caller]
fn check_refused(wishes: &Value, code: Code, msg: &str) {
    let mut rig = Rig::running();
    let answer = rig.add_with(
        &json!({"ips": ["10.244.0.7"], "portMappings": [{"hostPort": 80, "containerPort": 8080}]}),
        patient(),
    );
    rig.apply(Extent::Changes);
    answer.try_recv().unwrap().unwrap();
    rig.container = "c2";
    let error = rig.add_with(wishes, patient()).try_recv().expect("it is answered at once").unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (code, msg), "{error:?}");
    assert_eq!((rig.leased(), rig.records()), (1, 1), "the second left nothing");
}

#[test]
fn what_another_pod_has_is_a_conflict_and_the_gateways_address_is_nobodys() {
    check_refused(&json!({"ips": ["10.244.0.7"]}), Code::CONFLICT, "no address for the pod");
    check_refused(
        &json!({"portMappings": [{"hostPort": 80, "containerPort": 80, "hostIP": "192.0.2.1"}]}),
        Code::CONFLICT,
        "host port 80/tcp is taken by default/web",
    );
    check_refused(
        &json!({"mac": HOST_END_MAC.to_string()}),
        Code::INVALID_CONFIG,
        "the mac capability asks for the host end's address",
    );
}

#[test]
fn ports_clash_as_sockets_do() {
    let port = |ip: &str, number: u32, protocol: Protocol| HostPort {
        host_ip: (!ip.is_empty()).then(|| ip.parse().unwrap()),
        host_port: Port::new(number).unwrap(),
        container_port: Port::new(8080).unwrap(),
        protocol,
    };
    let tcp = |ip: &str| port(ip, 80, Protocol::Tcp);
    // Whether two pods can't have both, and whether one pod can't.
    let check = |a: HostPort, b: HostPort, of_two: bool, of_one: bool| {
        for (a, b) in [(&a, &b), (&b, &a)] {
            assert_eq!((clash(a, b), is_same_place(a, b)), (of_two, of_one), "{a:?} {b:?}");
        }
    };
    check(tcp(""), tcp(""), true, true);
    check(tcp(""), tcp("0.0.0.0"), true, true);
    check(tcp(""), tcp("::"), true, true);
    check(tcp("192.0.2.1"), tcp("192.0.2.1"), true, true);
    check(tcp("192.0.2.1"), tcp(""), true, false);
    check(tcp("192.0.2.1"), tcp("0.0.0.0"), true, false);
    check(tcp("2001:db8::1"), tcp(""), true, false);
    check(tcp("2001:db8::1"), tcp("::"), true, false);
    check(tcp("192.0.2.1"), tcp("192.0.2.2"), false, false);
    check(tcp("192.0.2.1"), tcp("::"), false, false);
    check(tcp("0.0.0.0"), tcp("::"), false, false);
    check(tcp(""), port("", 81, Protocol::Tcp), false, false);
    check(tcp(""), port("", 80, Protocol::Udp), false, false);
}
