//! One connection: for each direction somebody who takes bytes and says when they arrive, and somebody who waits until then and delivers them.

use std::io::{self, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use super::{Mode, Refusal, Shared, State, Verdict};
use crate::http::Request;
use crate::line::Line;

/// Bytes that are taken at a time: 1.3 ms at 100 Mbit/s.
const PARCEL: usize = 16 << 10;
/// Parcels under way in one direction of one connection: 8 MiB, more than any line holds that we imitate.
const PARCELS_MAX: usize = 512;
/// A writer that waits for its peer looks so often whether it should still.
const LOOK_UP: Duration = Duration::from_millis(50);
/// Below this a timer is no more exact than not waiting; what is gained is made up by the next wait.
const NOT_WORTH_WAITING: Duration = Duration::from_millis(1);

/// Both sockets of a connection. Its threads hold it; when the last one leaves, the sockets close.
#[derive(Debug)]
pub(super) struct Ends {
    client: TcpStream,
    server: OnceLock<TcpStream>,
    is_reset: AtomicBool,
    /// Whether the next reply is to be dropped.
    loses_reply: AtomicBool,
}

#[derive(Debug)]
enum Parcel {
    Bytes { arrives: Duration, bytes: Vec<u8> },
    End { arrives: Duration },
    Reset,
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl Direction {
    fn line(self, state: &mut State) -> (&mut Line, &mut u64) {
        match self {
            Self::Up => (&mut state.up, &mut state.counts.bytes_up),
            Self::Down => (&mut state.down, &mut state.counts.bytes_down),
        }
    }
}

impl Ends {
    pub(super) fn new(client: TcpStream) -> Self {
        Self { client, server: OnceLock::new(), is_reset: AtomicBool::new(false), loses_reply: AtomicBool::new(false) }
    }

    /// Wakes all who read; closing then resets and does not end politely.
    pub(super) fn reset(&self) {
        self.is_reset.store(true, Ordering::SeqCst);
        for end in [Some(&self.client), self.server.get()].into_iter().flatten() {
            let _ = rustix::net::sockopt::set_socket_linger(end, Some(Duration::ZERO));
            let _ = end.shutdown(Shutdown::Read);
        }
    }

    fn is_reset(&self) -> bool {
        self.is_reset.load(Ordering::SeqCst)
    }
}

/// Serves a connection to its end.
pub(super) fn serve(shared: &Shared, client: TcpStream) {
    let ends = Arc::new(Ends::new(client));
    let round_trip = shared.change(|state| {
        state.ends.retain(|ends| ends.strong_count() > 0);
        state.ends.push(Arc::downgrade(&ends));
        // Cut between accepting and here.
        if matches!(state.mode, Mode::Cut | Mode::Over) {
            ends.reset();
        }
        state.counts.connections += 1;
        state.up.delay + state.down.delay
    });
    // The client believes itself connected at once; a line would have taken a round trip.
    if !wait_until(shared, &ends, shared.clock.elapsed() + round_trip) {
        return;
    }
    let Ok(server) = TcpStream::connect(shared.server) else { return shared.reset(&ends) };
    let server = ends.server.get_or_init(|| server);
    if ends.is_reset() {
        return ends.reset();
    }
    for end in [&ends.client, server] {
        let _ = end.set_nodelay(true);
        let _ = end.set_write_timeout(Some(LOOK_UP));
    }
    let (up, from_client) = sync_channel(PARCELS_MAX);
    let (down, from_server) = sync_channel(PARCELS_MAX);
    let answers = down.clone();
    std::thread::scope(|scope| {
        let ends = &*ends;
        scope.spawn(move || deliver(shared, ends, &from_client, server));
        scope.spawn(move || deliver(shared, ends, &from_server, &ends.client));
        scope.spawn(move || take_replies(shared, ends, server, &down));
        if shared.knows_http {
            take_requests(shared, ends, &up, &answers);
        } else {
            take_bytes(shared, ends, &up);
        }
        // Else who delivers would wait for more.
        drop((up, answers));
    });
}

fn take_bytes(shared: &Shared, ends: &Ends, up: &SyncSender<Parcel>) {
    let mut buffer = [0; PARCEL];
    loop {
        match (&ends.client).read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(length) if length > 0 => {
                if !send(shared, ends, Direction::Up, up, buffer.get(..length).unwrap_or_default()) {
                    return;
                }
            }
            Ok(_) => return end(shared, Direction::Up, up),
            Err(_) => return shared.reset(ends),
        }
    }
}

fn take_requests(shared: &Shared, ends: &Ends, up: &SyncSender<Parcel>, answers: &SyncSender<Parcel>) {
    let mut client = BufReader::new(&ends.client);
    loop {
        let request = match Request::read(&mut client) {
            Ok(Some(request)) => request,
            Ok(None) => return end(shared, Direction::Up, up),
            Err(_) => return shared.reset(ends),
        };
        let verdict = shared.judge();
        if let Verdict::Refuse(refusal) = verdict {
            if !send(shared, ends, Direction::Down, answers, &refusal.answer()) {
                return;
            }
            continue;
        }
        ends.loses_reply.store(matches!(verdict, Verdict::LoseReply), Ordering::SeqCst);
        if !(send(shared, ends, Direction::Up, up, &request.head) && send(shared, ends, Direction::Up, up, &request.body)) {
            return;
        }
    }
}

fn take_replies(shared: &Shared, ends: &Ends, mut server: &TcpStream, down: &SyncSender<Parcel>) {
    let mut buffer = [0; PARCEL];
    loop {
        let length = match server.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(0) => return end(shared, Direction::Down, down),
            Ok(length) => length,
            Err(_) => return shared.reset(ends),
        };
        if ends.loses_reply.load(Ordering::SeqCst) {
            return shared.reset(ends);
        }
        let cut = shared.state().cut_within(length);
        let through = buffer.get(..cut.unwrap_or(length)).unwrap_or_default();
        if !send(shared, ends, Direction::Down, down, through) {
            return;
        }
        if cut.is_some() {
            shared.changed.notify_all();
            let _ = down.send(Parcel::Reset);
            return;
        }
    }
}

impl Refusal {
    fn answer(&self) -> Vec<u8> {
        format!("HTTP/1.1 {} Come again\r\nRetry-After: {}\r\nContent-Length: 0\r\n\r\n", self.status, self.retry_after_s).into_bytes()
    }
}

/// Puts bytes on the line, and waits until they have left as a sender does; false if the connection is over.
fn send(shared: &Shared, ends: &Ends, direction: Direction, to: &SyncSender<Parcel>, bytes: &[u8]) -> bool {
    bytes.chunks(PARCEL).all(|bytes| {
        let now = shared.clock.elapsed();
        let (left, arrives) = {
            let mut state = shared.state();
            let (line, count) = direction.line(&mut state);
            *count += bytes.len() as u64;
            line.send(now, bytes.len())
        };
        to.send(Parcel::Bytes { arrives, bytes: bytes.into() }).is_ok()
            && (left.saturating_sub(now) < NOT_WORTH_WAITING || wait_until(shared, ends, left))
    })
}

fn end(shared: &Shared, direction: Direction, to: &SyncSender<Parcel>) {
    let now = shared.clock.elapsed();
    let (_, arrives) = direction.line(&mut shared.state()).0.send(now, 0);
    let _ = to.send(Parcel::End { arrives });
}

/// Delivers parcels when their time has come and the line is not frozen.
fn deliver(shared: &Shared, ends: &Ends, parcels: &Receiver<Parcel>, to: &TcpStream) {
    for parcel in parcels {
        let done = match parcel {
            Parcel::Bytes { arrives, bytes } => wait_until(shared, ends, arrives) && write(ends, to, &bytes).is_ok(),
            Parcel::End { arrives } => {
                if wait_until(shared, ends, arrives) {
                    let _ = to.shutdown(Shutdown::Write);
                }
                return;
            }
            Parcel::Reset => false,
        };
        if !done {
            break;
        }
    }
    shared.reset(ends);
}

fn write(ends: &Ends, mut to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) && !ends.is_reset() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits for a moment, longer if the line is frozen then; false if the connection was reset.
fn wait_until(shared: &Shared, ends: &Ends, moment: Duration) -> bool {
    let mut state = shared.state();
    loop {
        if ends.is_reset() {
            return false;
        }
        let left = moment.saturating_sub(shared.clock.elapsed());
        if state.mode == Mode::Frozen {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        } else if left.is_zero() {
            return true;
        } else {
            state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
