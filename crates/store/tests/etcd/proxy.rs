//! The way to a server, which a test can cut.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

/// How the way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// Everything passes.
    Open = 0,
    /// Connections end, and new ones do at once.
    Cut = 1,
    /// Connections stand, and nothing passes.
    Silent = 2,
    /// Connections stand, and nothing passes any more over those that carry a watch, also later.
    Deaf = 3,
}

/// See the module. It ends with the test program.
pub struct Proxy {
    port: u16,
    way: Arc<AtomicU8>,
    lists: Arc<AtomicUsize>,
}

/// What only the question for a watch has.
const WATCH: &[u8] = b"POST /v3/watch";

/// What only a list of what has changed asks.
const LIST: &[u8] = br#""keys_only":true"#;

impl Proxy {
    /// A way to a port of this machine.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Arc::new(AtomicU8::new(Way::Open as u8));
        let lists = Arc::new(AtomicUsize::new(0));
        let (shared, counted) = (way.clone(), lists.clone());
        std::thread::spawn(move || {
            for inner in listener.incoming().flatten() {
                if shared.load(Ordering::SeqCst) == Way::Cut as u8 {
                    continue;
                }
                let Ok(outer) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let carries = Arc::new(AtomicBool::new(false));
                for (from, to) in [(&inner, &outer), (&outer, &inner)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (way, lists, carries) = (shared.clone(), counted.clone(), carries.clone());
                    std::thread::spawn(move || pass(from, to, &way, &lists, &carries));
                }
            }
        });
        Self { port, way, lists }
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How often all keys were asked for, after the first time.
    pub fn lists(&self) -> usize {
        self.lists.load(Ordering::SeqCst)
    }

    /// From now on the way is like that.
    pub fn set(&self, way: Way) {
        self.way.store(way as u8, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, way: &AtomicU8, lists: &AtomicUsize, carries: &AtomicBool) {
    let pause = Duration::from_millis(20);
    from.set_read_timeout(Some(pause)).unwrap();
    let mut buffer = [0; 16 << 10];
    let mut is_dead = false;
    loop {
        match way.load(Ordering::SeqCst) {
            way if way == Way::Cut as u8 => break,
            way if way == Way::Silent as u8 => {
                std::thread::sleep(pause);
                continue;
            }
            _ => {}
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) if is_dead => {}
            Ok(_) if way.load(Ordering::SeqCst) == Way::Deaf as u8 && carries.load(Ordering::SeqCst) => {
                is_dead = true;
            }
            Ok(count) if to.write_all(&buffer[..count]).is_ok() => {
                let is_list = buffer[..count].windows(LIST.len()).any(|part| part == LIST);
                lists.fetch_add(usize::from(is_list), Ordering::SeqCst);
                if buffer[..count].windows(WATCH.len()).any(|part| part == WATCH) {
                    carries.store(true, Ordering::SeqCst);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
