//! The DNS server of this node: started, and started again where it couldn't be.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use weft_dns::forward::UpstreamSource;
use weft_dns::server::{Config, Handle, serve};
use weft_plan::Plan;

use crate::config::AgentConfig;
use crate::message::Message;

/// Time between attempts.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps a server running until it is dropped.
#[derive(Debug)]
pub(crate) struct Dns {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    /// Starts the server of a configuration, by a thread that goes on trying: a node without names still has a network, and
    /// who has taken the port may leave. What is wrong is told to the core. `None` where no server is configured.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(
        config: &AgentConfig,
        names: &Arc<RwLock<Plan>>,
        core: &Sender<Message>,
    ) -> std::io::Result<Option<Self>> {
        let addresses = config.dns_addresses();
        if addresses.is_empty() {
            return Ok(None);
        }
        let listen = addresses.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect();
        let zones = vec![weft_plan::DnsName::new(&config.dns.cluster_domain)];
        let mut server = Config::new(listen, zones);
        server.upstreams = match config.dns.upstreams.as_slice() {
            [] => UpstreamSource::ResolvConf(config.dns.resolv_conf.clone()),
            fixed => UpstreamSource::Fixed(fixed.iter().map(|resolver| resolver.address().clone()).collect()),
        };
        let (stop, stopped) = channel();
        let (names, core) = (names.clone(), core.clone());
        let tell = move |trouble| drop(core.send(Message::Trouble("dns", trouble)));
        // The first attempt is made before anybody is told that the agent runs.
        let first = attempt(&server, &names, &tell);
        let keep = move || keep(first, || attempt(&server, &names, &tell), &stopped);
        let thread = std::thread::Builder::new().name("weft-dns-start".into()).spawn(keep)?;
        Ok(Some(Self { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic ends the process anyway.
            let _ = thread.join();
        }
    }
}

/// Tries until there is a server, and holds it until the channel closes.
fn keep<T>(first: Option<T>, mut attempt: impl FnMut() -> Option<T>, stopped: &Receiver<()>) {
    let mut running = first;
    while running.is_none() {
        match stopped.recv_timeout(RETRY) {
            Err(RecvTimeoutError::Timeout) => running = attempt(),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
    let _ = stopped.recv();
}

fn attempt(server: &Config, names: &Arc<RwLock<Plan>>, tell: &dyn Fn(Option<String>)) -> Option<Handle> {
    match serve(server, names.clone()) {
        Ok(handle) => {
            let absent: Vec<String> =
                handle.absent().iter().map(|address| address.ip().to_string()).collect();
            if !absent.is_empty() {
                tracing::info!("no names at {}: this kernel lacks their family", absent.join(" and "));
            }
            tell(None);
            Some(handle)
        }
        Err(error) => {
            tell(Some(format!("no DNS server: {error}; tried again every {} seconds", RETRY.as_secs())));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Instant;

    #[test]
    fn who_has_the_port_may_leave() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = Config::new(vec![taken.local_addr().unwrap()], Vec::new());
        let (tell, told) = channel();
        let (stop, stopped) = channel::<()>();
        let names = Arc::new(RwLock::new(Plan::default()));
        let tell = move |trouble| tell.send(trouble).unwrap();
        let first = attempt(&server, &names, &tell);
        assert!(first.is_none());
        assert!(told.try_recv().unwrap().unwrap().contains("tried again"));
        drop(taken);
        let keeper = std::thread::spawn(move || keep(first, || attempt(&server, &names, &tell), &stopped));
        let begun = Instant::now();
        assert_eq!(told.recv_timeout(4 * RETRY), Ok(None), "the trouble is over");
        assert!(begun.elapsed() >= RETRY / 2);
        drop(stop);
        keeper.join().unwrap();
    }
}
