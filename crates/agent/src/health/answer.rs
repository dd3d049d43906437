//! What is answered, as kube-proxy does: pure.
//!
//! `200` and `503` are what load balancers go by; the body is for people. Methods, headers and bodies of requests are passed
//! over, and at a service's port the path too.

use std::time::{Instant, SystemTime};

use serde_json::{Value, json};
use weft_model::time::rfc3339;
use weft_plan::HealthRow;

use super::state::NodeHealth;

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// Endpoints here, for the header `X-Load-Balancing-Endpoint-Weight`.
    pub weight: Option<u32>,
    /// JSON.
    pub body: String,
}

const OK: u16 = 200;
const NOT_FOUND: u16 = 404;
const UNAVAILABLE: u16 = 503;

impl Answer {
    fn new(status: u16, weight: Option<u32>, body: &Value) -> Self {
        Self { status, weight, body: body.to_string() }
    }
}

/// At a service's port: 200 while it has an endpoint here, and this node leads packets to it.
pub fn of_service(row: &HealthRow, node: &NodeHealth, now: Instant) -> Answer {
    let healthy = node.is_in_force(now);
    let body = json!({
        "service": {"namespace": row.service.namespace.as_str(), "name": row.service.name.as_str()},
        "localEndpoints": row.local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    let status = if healthy && row.local_endpoints > 0 { OK } else { UNAVAILABLE };
    Answer::new(status, Some(row.local_endpoints), &body)
}

/// At the node's own port: `/healthz` for load balancers, `/livez` for whoever would start the agent anew.
pub fn of_node(path: &str, node: &NodeHealth, now: Instant, wall: SystemTime) -> Answer {
    let mut body = json!({ "currentTime": rfc3339(wall) });
    let healthy = match path {
        "/healthz" => {
            body["nodeEligible"] = json!(!node.leaving);
            node.is_in_force(now)
        }
        "/livez" => node.is_alive(now),
        _ => {
            return Answer::new(NOT_FOUND, None, &json!({ "error": "there are /healthz and /livez" }));
        }
    };
    // As long as all is well nothing is newer than what is in force.
    let updated = node.updated.map(|(_, when)| if node.is_in_force(now) { wall } else { when });
    body["lastUpdated"] = updated.map_or(Value::Null, |when| json!(rfc3339(when)));
    let turned_away = path == "/healthz" && node.leaving;
    Answer::new(if healthy && !turned_away { OK } else { UNAVAILABLE }, None, &body)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use weft_model::ObjectKey;
    use weft_plan::Listen;

    use super::*;
    use crate::health::state::PATIENCE;

    fn well(now: Instant) -> NodeHealth {
        NodeHealth { updated: Some((now, UNIX_EPOCH)), heard: Some(now), ..NodeHealth::default() }
    }

    #[test]
    fn a_service_does_well_with_an_endpoint_on_a_node_that_does() {
        let now = Instant::now();
        let check = |local_endpoints, node: &NodeHealth, status, body: &str| {
            let service = ObjectKey::new("shop", "web").unwrap();
            let row = HealthRow { service, local_endpoints, listen: Listen::Everywhere };
            let expected = Answer { status, weight: Some(local_endpoints), body: body.into() };
            assert_eq!(of_service(&row, node, now), expected);
        };
        let two =
            r#"{"localEndpoints":2,"service":{"name":"web","namespace":"shop"},"serviceProxyHealthy":true}"#;
        check(2, &well(now), 200, two);
        check(0, &well(now), 503, &two.replace(":2", ":0"));
        let ill = two.replace("true", "false");
        check(2, &NodeHealth::default(), 503, &ill);
        // A node that leaves still serves what it has.
        check(2, &NodeHealth { leaving: true, ..well(now) }, 200, two);
    }

    #[test]
    fn a_node_says_whether_to_send_to_it_and_whether_it_lives() {
        let now = Instant::now() + 2 * PATIENCE;
        let wall = UNIX_EPOCH + Duration::from_secs(86_400);
        let check = |path: &str, node: NodeHealth, status, body: &str| {
            assert_eq!(of_node(path, &node, now, wall), Answer { status, weight: None, body: body.into() });
        };
        let (then, today) = ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z");
        let healthz = |eligible: bool, updated: &str| {
            format!(r#"{{"currentTime":"{today}","lastUpdated":{updated},"nodeEligible":{eligible}}}"#)
        };
        let livez = |updated: &str| format!(r#"{{"currentTime":"{today}","lastUpdated":{updated}}}"#);
        let quoted = |text: &str| format!("\"{text}\"");
        check("/healthz", well(now), 200, &healthz(true, &quoted(today)));
        check("/livez", well(now), 200, &livez(&quoted(today)));
        let silent = well(now - PATIENCE);
        check("/healthz", silent, 503, &healthz(true, &quoted(then)));
        check("/livez", silent, 503, &livez(&quoted(then)));
        let leaving = NodeHealth { leaving: true, ..well(now) };
        check("/healthz", leaving, 503, &healthz(false, &quoted(today)));
        check("/livez", leaving, 200, &livez(&quoted(today)));
        check("/healthz", NodeHealth::default(), 503, &healthz(true, "null"));
        check("/livez", NodeHealth::default(), 200, &livez("null"));
        check("/", well(now), 404, r#"{"error":"there are /healthz and /livez"}"#);
    }
}
