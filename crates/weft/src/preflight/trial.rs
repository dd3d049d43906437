//! What the kernel can do, tried out by what the agent would ask of it ([`weft_agent::trial`]).

use weft_agent::trial::{Lack, lacks};

use super::Finding;

pub fn check() -> Vec<Finding> {
    let tried = tempfile::tempdir()
        .map_err(|error| format!("nothing could be tried: no folder for temporary files: {error}"))
        .and_then(|folder| lacks(folder.path()).map_err(|refused| refused.to_string()));
    match tried {
        Ok(lacks) => findings(lacks),
        Err(text) => vec![Finding::missing(
            "kernel",
            text,
            "a kernel with network namespaces (CONFIG_NET_NS) and CAP_SYS_ADMIN is needed",
        )],
    }
}

fn findings(lacks: Vec<Lack>) -> Vec<Finding> {
    if lacks.is_empty() {
        let text = "links, tunnels, routes, rules and the packet filter, tried in a namespace of their own";
        return vec![Finding::ok("kernel", text)];
    }
    let finding = |Lack { what, text, mend }| Finding::missing("kernel", format!("{what}: {text}"), mend);
    lacks.into_iter().map(finding).collect()
}
