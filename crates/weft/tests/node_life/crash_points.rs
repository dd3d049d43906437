//! The agent dies by `kill -9` between any two steps of an ADD or DEL, and the plugin between request and answer. Afterwards
//! a new agent, a GC and the next pod find nothing leaked and nothing double.

use std::time::Duration;

use serde_json::{Value, json};
use weft_agent::crash::PLACES;
use weft_cni::Verb;

use crate::node::{Node, sh};

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_death_between_any_two_steps_leaks_nothing_and_doubles_nothing() {
    let Some(mut node) = Node::new() else { return };
    for place in PLACES {
        node.start(Some(place));
        if place.starts_with("del:") {
            node.add("first").unwrap();
            node.del("first").unwrap_err();
        } else {
            node.add("first").unwrap_err();
        }
        node.died();
        node.start(None);
        // The next pod gets addresses that nobody else has, whatever is left of the first.
        let second = node.add("second").unwrap();
        let status = node.status().unwrap();
        let pods = status["pods"].as_array().unwrap();
        let all: Vec<&Value> = pods.iter().flat_map(|pod| pod["addresses"].as_array().unwrap()).collect();
        let distinct: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all.len(), distinct.len(), "{place}: {status}");
        assert_eq!(addresses(&second).len(), 2);
        node.gc(&["second"]);
        node.settles_with(1, place);
        // And the runtime's own DEL of the first, late, twice.
        node.del("first").unwrap();
        node.del("first").unwrap();
        node.settles_with(1, place);
        node.del("second").unwrap();
        node.settles_with(0, place);
        node.stop();
        sh("ip netns del first; ip netns del second");
    }
}

#[test]
fn a_plugin_that_dies_before_the_answer_leaks_nothing() {
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    sh("ip netns add gone");
    // It gives up at once: past the deadline nothing is left, whether or not anybody cleans up.
    node.call(Verb::Add, "gone", &json!({}), Duration::from_micros(1)).unwrap_err();
    node.settles_with(0, "an ADD past its deadline");
    // It dies right after the request. The runtime sees a failed ADD, and sends DEL.
    node.hang_up(Verb::Add, "gone");
    node.del("gone").unwrap();
    node.settles_with(0, "DEL after a broken ADD");
    // The runtime died too; its next GC doesn't know the container, which the agent has attached for nobody.
    node.hang_up(Verb::Add, "gone");
    node.settles_with(1, "an ADD that nobody waits for");
    node.gc(&[]);
    node.settles_with(0, "GC after a broken ADD");
}
