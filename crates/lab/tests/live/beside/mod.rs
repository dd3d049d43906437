//! Other programs on the same node that translate and filter as well: real ones, started as people start them. They come and go,
//! and connections are led where they should be all the while.
//!
//! What is absent: the programs themselves. A test says which one it lacks, and where it looked.

mod docker;
mod kube_proxy;
mod services;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use weft_lab::matrix::Place;

use super::rig::Rig;

/// Folder of programs that are built or unpacked for comparisons, beside the one of ours.
fn peers() -> PathBuf {
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_weft-lab"));
    ours.ancestors().nth(2).expect("it lies in a folder of the target").join("peers")
}

fn place(rig: &Rig, name: &str) -> Place {
    rig.places().into_iter().find(|place| place.name == name).expect("it is a place")
}

/// Runs `body` in a place's own network.
fn inside<T: Send>(place: &Place, body: impl FnOnce() -> T + Send) -> T {
    let Some(netns) = &place.netns else {
        return place.machine.enter_net(body).expect("the machine can be entered");
    };
    let path = place.machine.path(&netns.to_string_lossy());
    let netns = std::fs::File::open(path).expect("it is there");
    let entered = || {
        setns(netns, CloneFlags::CLONE_NEWNET).expect("it can be entered");
        body()
    };
    std::thread::scope(|scope| scope.spawn(entered).join().expect("it ends well"))
}

/// A connection that must outlive everything: its server swallows, and in the end says how much that was.
struct Lasting {
    stream: TcpStream,
    what: String,
    written: u64,
}

impl Lasting {
    fn open(from: &Place, to: SocketAddr) -> Self {
        let patience = Duration::from_secs(2);
        let connect = || TcpStream::connect_timeout(&to, patience);
        let stream = inside(from, connect).unwrap_or_else(|e| panic!("{} to {to}: {e}", from.name));
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("it can be set");
        Self { stream, what: format!("the connection from {} to {to}", from.name), written: 0 }
    }

    fn go_on(&mut self) {
        let text = b"still here";
        self.stream.write_all(text).unwrap_or_else(|e| panic!("{} broke: {e}", self.what));
        self.written += text.len() as u64;
    }

    /// Asks what has arrived.
    fn end(mut self) {
        self.go_on();
        self.stream.shutdown(std::net::Shutdown::Write).expect("it can be ended");
        let mut total = [0; 8];
        self.stream.read_exact(&mut total).unwrap_or_else(|e| panic!("{} broke: {e}", self.what));
        assert_eq!(u64::from_be_bytes(total), self.written, "{}", self.what);
    }
}
