//! A made-up resolver: a function from request to replies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

type Behaviour = dyn Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync;

pub struct Resolver {
    pub address: SocketAddr,
    pub asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Resolver {
    /// By UDP it replies with each message that `udp` returns; by TCP with the first one of `tcp`.
    pub fn new(
        udp: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static,
        tcp: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let listener = TcpListener::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let (udp, tcp): (Box<Behaviour>, Box<Behaviour>) = (Box::new(udp), Box::new(tcp));
        let (stop_udp, stop_tcp, asked_udp) = (stop.clone(), stop.clone(), asked.clone());
        let datagrams = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop_udp.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    asked_udp.fetch_add(1, Ordering::Relaxed);
                    for reply in udp(&buffer[..length]) {
                        socket.send_to(&reply, client).unwrap();
                    }
                }
            }
        });
        let streams = std::thread::spawn(move || {
            while !stop_tcp.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        let mut length = [0; 2];
                        stream.read_exact(&mut length).unwrap();
                        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                        stream.read_exact(&mut query).unwrap();
                        let reply = tcp(&query).remove(0);
                        stream.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes()).unwrap();
                        stream.write_all(&reply).unwrap();
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Self { address, asked, stop, threads: vec![datagrams, streams] }
    }

    /// One that answers every question for an address with `last` in it.
    pub fn simple(last: u8) -> Self {
        Self::new(
            move |query| vec![address_reply(query, last)],
            move |query| vec![address_reply(query, last)],
        )
    }

    pub fn count(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// The request's header and question, with `flags` and a number of answers.
pub fn reply_head(query: &[u8], flags: u16, answers: u8) -> Vec<u8> {
    let mut at = 12;
    while query[at] != 0 {
        at += 1 + usize::from(query[at]);
    }
    let mut reply = query[..at + 5].to_vec();
    reply[2..4].copy_from_slice(&flags.to_be_bytes());
    reply[4..12].copy_from_slice(&[0, 1, 0, answers, 0, 0, 0, 0]);
    reply
}

/// `NAME 77 A 192.0.2.LAST`.
pub fn address_reply(query: &[u8], last: u8) -> Vec<u8> {
    let mut reply = reply_head(query, 0x8180, 1);
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 77, 0, 4, 192, 0, 2, last]);
    reply
}
