//! The API over a real socket, with clients that behave and clients that don't.

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use weft_cni::Code;
use weft_cni::client::Exchange;
use weft_cni::wire::Response;

use super::{
    ApiRequest, ApiResponse, ApiServer, Limits, RunDir, RunDirError, client, hold_state, is_awaited,
};

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("weft-api-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn start(
    folder: &Folder,
    limits: Limits,
    handler: impl Fn(ApiRequest) -> ApiResponse + Send + Sync + 'static,
) -> (RunDir, ApiServer) {
    let run_dir = RunDir::claim(&folder.0).unwrap();
    let server = ApiServer::start(&run_dir, limits, Arc::new(handler)).unwrap();
    (run_dir, server)
}

/// Says what it got: method, path, query, body length, descriptors.
fn echo(request: ApiRequest) -> ApiResponse {
    let ApiRequest { method, path, query, body, fds, .. } = request;
    ApiResponse::text(format!("{method} {path} ?{query} body={} fds={}", body.len(), fds.len()))
}

fn text(response: &Response) -> (u16, String) {
    (response.status, String::from_utf8_lossy(&response.body).into_owned())
}

fn with_descriptor<'a>(socket: &'a Path, body: &'a [u8], fd: &'a OwnedFd) -> Exchange<'a> {
    Exchange {
        socket,
        method: "POST",
        path: "/v1/attachments/add",
        body,
        descriptor: Some(fd.as_fd()),
        connect_within: Duration::from_secs(5),
        answer_within: Duration::from_secs(20),
    }
}

/// Sends bytes as they are, with descriptors, and reads what comes until the end.
fn raw(socket: &Path, bytes: &[u8], fds: &[RawFd]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let sent =
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None);
    assert_eq!(sent, Ok(bytes.len()));
    read_all(&mut stream)
}

fn read_all(stream: &mut UnixStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end like any other; a time-out is not.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_request_arrives_whole() {
    let folder = Folder::new();
    let seen = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&seen);
    let (_run_dir, server) = start(&folder, Limits::default(), move |request| {
        let flags = fcntl(&request.fds[0], FcntlArg::F_GETFD).unwrap();
        assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC));
        *tell.lock().unwrap() = Some(request);
        ApiResponse::done()
    });
    let file: OwnedFd = fs::File::open("/proc/self/status").unwrap().into();
    let body = vec![b'x'; 300_000];
    let response = with_descriptor(server.socket(), &body, &file).run().unwrap();
    assert_eq!(text(&response), (200, "{}".into()));
    let request = seen.lock().unwrap().take().unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/attachments/add"));
    assert_eq!((request.body, request.fds.len()), (body, 1));
    let mut start = String::new();
    fs::File::from(request.fds.into_iter().next().unwrap()).take(5).read_to_string(&mut start).unwrap();
    assert_eq!(start, "Name:", "the descriptor is the one that was sent");
    let left = request.deadline.saturating_duration_since(Instant::now());
    assert!(left > Duration::from_secs(5) && left < Duration::from_secs(20), "{left:?}");
}

#[test]
fn get_and_post_of_the_command_line() {
    let folder = Folder::new();
    let (_run_dir, server) = start(&folder, Limits::default(), echo);
    let got = client::get(server.socket(), "/v1/status?output=json").unwrap();
    assert_eq!(text(&got), (200, "GET /v1/status ?output=json body=0 fds=0".into()));
    let posted = client::post(server.socket(), "/v1/plan", b"{}").unwrap();
    assert_eq!(text(&posted), (200, "POST /v1/plan ? body=2 fds=0".into()));
    let error = client::get(&folder.0.join("none.sock"), "/").unwrap_err();
    assert!(!error.may_have_acted() && error.to_string().contains("none.sock"), "{error}");
}

#[test]
fn descriptors_are_closed_whether_used_refused_or_too_many() {
    for (count, served) in [(1, true), (4, true), (5, false), (100, false)] {
        let folder = Folder::new();
        let (_run_dir, server) = start(&folder, Limits::default(), echo);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let fds = vec![theirs.as_raw_fd(); count];
        let answer = raw(server.socket(), b"GET /x HTTP/1.1\r\nhost: weft\r\n\r\n", &fds);
        assert_eq!(answer.contains(&format!("fds={count}")), served, "{count}: {answer}");
        drop(theirs);
        // The end of file comes only when every copy of the other end is closed.
        ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "{count} descriptors");
        assert_eq!(client::get(server.socket(), "/").unwrap().status, 200, "the server serves on");
    }
}

#[test]
fn a_body_up_to_the_limit_is_served_and_one_byte_more_is_not() {
    let folder = Folder::new();
    let (_run_dir, server) = start(&folder, Limits { body: 100_000, ..Limits::default() }, echo);
    assert_eq!(client::post(server.socket(), "/", &vec![0; 100_000]).unwrap().status, 200);
    let refused = client::post(server.socket(), "/", &vec![0; 100_001]).unwrap();
    assert_eq!(refused.status, 413);
    assert_eq!(refused.outcome().unwrap().unwrap_err().code, Code::DECODING_FAILURE);
    assert_eq!(client::post(server.socket(), "/", &vec![0; 3_000_000]).unwrap().status, 413);
}

#[test]
fn garbage_is_refused_and_the_next_is_served() {
    let folder = Folder::new();
    let limits = Limits { sending: Duration::from_millis(300), ..Limits::default() };
    let (_run_dir, server) = start(&folder, limits, echo);
    let check = |bytes: &[u8], expected: &str| {
        let answer = raw(server.socket(), bytes, &[]);
        assert!(answer.starts_with(expected), "{:?}: {answer:?}", String::from_utf8_lossy(bytes));
        assert_eq!(client::get(server.socket(), "/").unwrap().status, 200);
    };
    check(b"\x00\x01\x02\x03\r\n\r\n", "HTTP/1.1 400");
    check(b"hello there\r\n\r\n", "HTTP/1.1 400");
    check(
        b"POST / HTTP/1.1\r\nhost: x\r\nweft-deadline-ms: soon\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 400",
    );
    // Half a head, and then half a body, and no more.
    check(b"GET / HT", "");
    check(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab", "HTTP/1.1 408");
    check(format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000)).as_bytes(), "HTTP/1.1 431");
}

#[test]
fn a_hundred_at_once_are_served_by_a_bounded_number_of_threads() {
    let folder = Folder::new();
    let (working, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (Arc::clone(&working), Arc::clone(&most));
    let limits = Limits { threads: 16, connections: 40, ..Limits::default() };
    let (_run_dir, server) = start(&folder, limits, move |request| {
        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(20));
        now.fetch_sub(1, Ordering::SeqCst);
        ApiResponse { status: 200, body: request.body, content_type: "text/plain" }
    });
    let socket = server.socket();
    thread::scope(|scope| {
        for number in 0..100 {
            scope.spawn(move || {
                let body = format!("request {number}");
                let file: OwnedFd = fs::File::open("/dev/null").unwrap().into();
                let response = with_descriptor(socket, body.as_bytes(), &file).run().unwrap();
                assert_eq!(text(&response), (200, body));
            });
        }
    });
    let most = most.load(Ordering::SeqCst);
    assert!((2..=16).contains(&most), "{most} handlers ran at once");
}

#[test]
fn a_request_that_waited_past_its_deadline_is_not_begun() {
    let folder = Folder::new();
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let (_run_dir, server) = start(&folder, Limits { threads: 1, ..Limits::default() }, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(400));
        ApiResponse::done()
    });
    let socket = server.socket();
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(client::get(socket, "/").unwrap().status, 200));
        while begun.load(Ordering::SeqCst) == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        let answer = raw(socket, b"GET / HTTP/1.1\r\nhost: x\r\nweft-deadline-ms: 50\r\n\r\n", &[]);
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"code\":11"), "{answer}");
    });
    assert_eq!(begun.load(Ordering::SeqCst), 1);
}

#[test]
fn a_handler_that_panics_costs_one_answer() {
    let folder = Folder::new();
    let (_run_dir, server) = start(&folder, Limits::default(), |request| {
        assert_ne!(request.path, "/panic", "this panic is the test's own");
        ApiResponse::done()
    });
    let broken = client::get(server.socket(), "/panic").unwrap();
    assert_eq!(broken.outcome().unwrap().unwrap_err().code, Code::DEFECT);
    assert_eq!(client::get(server.socket(), "/").unwrap().status, 200);
}

#[test]
fn a_run_folder_has_one_agent() {
    let folder = Folder::new();
    let first = RunDir::claim(&folder.0).unwrap();
    let Err(RunDirError::Held { pid, .. }) = RunDir::claim(&folder.0) else { panic!("held twice") };
    assert_eq!(pid, std::process::id().to_string());
    drop(first);
    let again = RunDir::claim(&folder.0).unwrap();
    assert_eq!(again.path(), folder.0);
    let in_the_way = folder.0.join("agent.pid").join("below-a-file");
    assert!(matches!(RunDir::claim(&in_the_way), Err(RunDirError::Create { .. })));
}

#[test]
fn who_waits_is_known_until_it_has_taken_over() {
    let folder = Folder::new();
    let first = RunDir::claim(&folder.0).unwrap();
    assert!(!is_awaited(&folder.0));
    let path = folder.0.clone();
    let waiting = thread::spawn(move || RunDir::wait(&path).unwrap());
    let end = Instant::now() + Duration::from_secs(10);
    while !is_awaited(&folder.0) {
        assert!(Instant::now() < end, "nobody waits");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(matches!(RunDir::claim(&folder.0), Err(RunDirError::Held { .. })));
    drop(first);
    let mut second = waiting.join().unwrap();
    assert!(matches!(RunDir::claim(&folder.0), Err(RunDirError::Held { .. })));
    assert!(is_awaited(&folder.0), "it has not taken over yet");
    drop(second.take_turn());
    assert!(!is_awaited(&folder.0));
    drop(second);
    // Where nobody is in the way there is nothing to take over.
    assert!(RunDir::wait(&folder.0).unwrap().take_turn().is_none());
}

#[test]
fn a_state_folder_has_one_agent() {
    let folder = Folder::new();
    fs::create_dir_all(&folder.0).unwrap();
    let first = hold_state(&folder.0).unwrap();
    assert!(matches!(hold_state(&folder.0), Err(RunDirError::StateHeld { .. })));
    drop(first);
    assert!(hold_state(&folder.0).is_ok());
    assert!(matches!(hold_state(&folder.0.join("absent")), Err(RunDirError::Write { .. })));
}

#[test]
fn a_stale_socket_is_replaced_and_a_stopped_server_leaves_none() {
    let folder = Folder::new();
    let run_dir = RunDir::claim(&folder.0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(run_dir.socket()).unwrap());
    fs::write(run_dir.socket().with_extension("new"), "left by a crash").unwrap();
    let server = ApiServer::start(&run_dir, Limits::default(), Arc::new(echo)).unwrap();
    assert_eq!(client::get(server.socket(), "/").unwrap().status, 200);
    let mode = fs::metadata(server.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.stop();
    assert!(!run_dir.socket().exists());
    let left: Vec<_> = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["agent.pid"]);
}

#[test]
fn stopping_lets_a_request_in_work_finish() {
    let folder = Folder::new();
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let (run_dir, server) = start(&folder, Limits::default(), move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(300));
        ApiResponse::done()
    });
    let socket = run_dir.socket();
    let client = thread::spawn(move || client::get(&socket, "/"));
    while begun.load(Ordering::SeqCst) == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    server.stop();
    assert_eq!(client.join().unwrap().unwrap().status, 200);
}

#[test]
fn a_path_too_long_for_a_socket_is_named() {
    let folder = Folder::new();
    let run_dir = RunDir::claim(&folder.0.join("x".repeat(120))).unwrap();
    let error = ApiServer::start(&run_dir, Limits::default(), Arc::new(echo)).unwrap_err().to_string();
    assert!(error.starts_with("can't listen on") && error.contains("its path short"), "{error}");
}

#[test]
fn another_user_is_not_served() {
    let folder = Folder::new();
    let (_run_dir, server) = start(&folder, Limits::default(), echo);
    // Open to all, so that only the check of the peer stands in the way.
    fs::set_permissions(server.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let socket = server.socket().to_owned();
    let answer = thread::spawn(move || {
        become_nobody().then(|| {
            let mut stream = UnixStream::connect(socket).unwrap();
            // The server may have hung up already.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
            read_all(&mut stream)
        })
    });
    match answer.join().unwrap() {
        Some(answer) => assert_eq!(answer, "", "no answer for another user"),
        None => eprintln!("SKIPPED: this user can't act as another, so the check of the peer is not tried"),
    }
    assert_eq!(client::get(server.socket(), "/").unwrap().status, 200);
}

/// Makes this thread, and it alone, act as uid 65534; false where that is not allowed.
#[allow(unsafe_code)]
fn become_nobody() -> bool {
    use nix::libc;
    // SAFETY: the raw call changes the credentials of the calling thread only, and touches no memory.
    unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) == 0 }
}
