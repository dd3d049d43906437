//! `weft migrate`: moves this node in from flannel or the bridge plugin, or says what that would do.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde_json::Value;
use weft_agent::migrate::{self, Places, Report, Standing};

use crate::cli::MigrateArgs;
use crate::output::{Format, Table, on_one_line, print, print_json};

pub fn run(args: &MigrateArgs, run_dir: Option<PathBuf>, format: Format) -> Result<ExitCode> {
    let mut config = args.config.read()?;
    config.run_dir = run_dir.unwrap_or(config.run_dir);
    let places = Places { cni_state: args.cni_state.clone(), ..Places::default() };
    let report = if args.dry_run { migrate::look(&config, &places) } else { migrate::run(&config, &places) };
    let report = report.map_err(|error| anyhow!("{error}; nothing of the former network was changed"))?;
    match format {
        Format::Json => print_json(&as_json(report.as_ref())?)?,
        Format::Text => print(&report.as_ref().map_or_else(nobody, |report| render(report, args.dry_run)))?,
    }
    let done = args.dry_run || report.is_none_or(|report| report.is_complete());
    Ok(ExitCode::from(u8::from(!done)))
}

/// A report has the same fields where there is nobody to move in from; `from` is null then.
fn as_json(report: Option<&Report>) -> Result<Value> {
    let mut value = serde_json::to_value(report.cloned().unwrap_or_default())?;
    if report.is_none() {
        for field in ["from", "conflist", "bridge"] {
            value[field] = Value::Null;
        }
    }
    Ok(value)
}

fn nobody() -> String {
    "no network of flannel's or the bridge plugin's is configured here: nothing to move in from\n".into()
}

fn render(report: &Report, dry_run: bool) -> String {
    let Report { from, conflist, bridge, .. } = report;
    let mut text = format!("from {from}: {}, bridge {bridge}", conflist.display());
    if !report.blocks.is_empty() {
        text.push_str(&format!(", this node's pods in {}", report.blocks.join(", ")));
    }
    text.push('\n');
    let mut table = Table::new(["POD", "ADDRESSES", "LINK", ""]);
    for pod in &report.pods {
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        let standing = match &pod.standing {
            Standing::Waits => "to be moved".to_owned(),
            Standing::Moved => "moved".to_owned(),
            Standing::Left(reason) => format!("stays: {}", on_one_line(reason)),
        };
        let link = format!("{} → {}", pod.former_link, pod.link);
        table.row([on_one_line(&pod.pod), addresses.join("\n"), link, standing]);
    }
    text.push_str(&table.render());
    for tunnel in &report.tunnels {
        let (old, new) = (&tunnel.former_link, &tunnel.link);
        text.push_str(&format!("tunnel {old} → {new}, VNI {}, port {}\n", tunnel.vni, tunnel.port));
    }
    for route in &report.routes {
        text.push_str(&format!("route to {route} taken over\n"));
    }
    if !report.stale_leases.is_empty() {
        let stale: Vec<String> = report.stale_leases.iter().map(ToString::to_string).collect();
        text.push_str(&format!("leases of pods that are gone: {}\n", stale.join(", ")));
    }
    for path in &report.set_aside {
        text.push_str(&format!("set aside: {}\n", on_one_line(&path.display().to_string())));
    }
    for line in &report.left {
        text.push_str(&format!("left: {}\n", on_one_line(line)));
    }
    if let Some(reason) = &report.stopped {
        text.push_str(&format!("stopped: {}\n", on_one_line(reason)));
    }
    text.push_str(match (dry_run, report.is_complete()) {
        (true, _) => "nothing was changed\n",
        (false, true) => "this node has moved; start its agent\n",
        (false, false) if report.stopped.is_some() => {
            "what is said above is done and holds, and pods that are to be moved go on as before; mend what stopped it, and type \
             `weft migrate` again\n"
        }
        (false, false) => "not all of this node has moved; `weft migrate` tries again\n",
    });
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;
    use weft_agent::migrate::{MovedPod, Tunnel};

    use super::*;

    #[test]
    fn what_moved_what_stays_and_a_last_word() {
        let pod = |pod: &str, last: u8, standing| MovedPod {
            pod: pod.into(),
            addresses: vec![[10, 244, 3, last].into()],
            former_link: format!("veth{last}"),
            link: format!("weftp00{last}"),
            standing,
        };
        let left = Standing::Left("its host end veth3 is on no bridge, not on cni0".into());
        let report = Report {
            from: "flannel".into(),
            conflist: "/etc/cni/net.d/10-flannel.conflist".into(),
            bridge: "cni0".into(),
            blocks: vec!["10.244.3.0/24".into()],
            pods: vec![pod("shop/web-0", 2, Standing::Moved), pod("shop/web-1", 3, left)],
            stale_leases: vec![[10, 244, 3, 9].into()],
            tunnels: vec![Tunnel {
                former_link: "flannel.1".into(),
                link: "weftx1".into(),
                vni: 1,
                port: 8472,
            }],
            routes: vec!["10.244.1.0/24".into()],
            set_aside: vec!["/etc/cni/net.d/10-flannel.conflist.before-weft".into()],
            left: vec!["1 pods stay".into()],
            stopped: None,
        };
        insta::assert_snapshot!(render(&report, false), @r"
        from flannel: /etc/cni/net.d/10-flannel.conflist, bridge cni0, this node's pods in 10.244.3.0/24
        POD         ADDRESSES   LINK
        shop/web-0  10.244.3.2  veth2 → weftp002  moved
        shop/web-1  10.244.3.3  veth3 → weftp003  stays: its host end veth3 is on no bridge, not on cni0
        tunnel flannel.1 → weftx1, VNI 1, port 8472
        route to 10.244.1.0/24 taken over
        leases of pods that are gone: 10.244.3.9
        set aside: /etc/cni/net.d/10-flannel.conflist.before-weft
        left: 1 pods stay
        not all of this node has moved; `weft migrate` tries again
        ");
        let stopped = Report {
            pods: vec![pod("shop/web-0", 2, Standing::Moved), pod("shop/web-1", 3, Standing::Waits)],
            stopped: Some("cannot write /var/lib/cni/results/x: No space left on device".into()),
            stale_leases: Vec::new(),
            tunnels: Vec::new(),
            routes: Vec::new(),
            left: Vec::new(),
            ..report
        };
        assert!(!stopped.is_complete());
        insta::assert_snapshot!(render(&stopped, false), @r"
        from flannel: /etc/cni/net.d/10-flannel.conflist, bridge cni0, this node's pods in 10.244.3.0/24
        POD         ADDRESSES   LINK
        shop/web-0  10.244.3.2  veth2 → weftp002  moved
        shop/web-1  10.244.3.3  veth3 → weftp003  to be moved
        set aside: /etc/cni/net.d/10-flannel.conflist.before-weft
        stopped: cannot write /var/lib/cni/results/x: No space left on device
        what is said above is done and holds, and pods that are to be moved go on as before; mend what stopped it, and type `weft migrate` again
        ");
        assert!(nobody().contains("nothing to move in from"));
        let (none, some) = (as_json(None).unwrap(), as_json(Some(&stopped)).unwrap());
        assert_eq!(
            (&none["from"], &none["pods"], &some["from"]),
            (&Value::Null, &json!([]), &json!("flannel"))
        );
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert!(fields(&none).is_subset(&fields(&some)), "{none}");
    }
}
