//! A line between a program and a server that does what lines do: it is slow, it breaks, it falls silent, it loses answers.
//!
//! A TCP proxy on loopback in plain threads. Delays do not reorder and do not cost throughput; a rate is shared by all connections, as on a line. With
//! [`Proxy::http`] it knows requests and can also refuse them or lose their replies. Not modelled: slow start, and a connection that is refused while the
//! line is frozen (the kernel completes it on loopback whatever we do). The program `proxy` drives it from scripts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use fs_core::crypto::SharedRandom;
use fs_core::testing::SeededRandom;
use fs_core::time::{SharedClock, SystemClock};

use crate::line::Line;
use connection::Ends;

mod connection;

/// A line, cut when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// What has gone over a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were accepted and forwarded.
    pub connections: u64,
    /// Requests, those that were refused among them; 0 if the proxy does not know HTTP.
    pub requests: u64,
    /// Requests that the proxy answered itself.
    pub refused: u64,
    /// Requests whose replies were dropped.
    pub lost: u64,
    /// Connections that [`Proxy::cut_every`] has reset.
    pub cuts: u64,
    /// Bytes to the server.
    pub bytes_up: u64,
    /// Bytes from the server.
    pub bytes_down: u64,
}

/// An answer that the proxy gives instead of the server.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// 429 or 503.
    pub status: u16,
    /// When to come again.
    pub retry_after_s: u32,
    /// Which part of all requests gets it, 0 to 1.
    pub share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Open,
    /// Everything stays where it is.
    Frozen,
    /// Every connection is reset.
    Cut,
    /// The same, and nobody will change it again.
    Over,
}

/// What the proxy does with a request.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Forward,
    Refuse(Refusal),
    LoseReply,
}

#[derive(Debug)]
struct Cuts {
    random: SharedRandom,
    every: Range<u64>,
    count: u64,
    /// Bytes until the next.
    left: u64,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    up: Line,
    down: Line,
    cuts: Option<Cuts>,
    refusal: Option<Refusal>,
    lost_share: f64,
    counts: Counts,
    /// Those that live, to be reset.
    ends: Vec<Weak<Ends>>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    knows_http: bool,
    clock: SharedClock,
    /// Which requests are refused or lost.
    random: SharedRandom,
    state: Mutex<State>,
    /// The mode, a setting or a count is another.
    changed: Condvar,
}

impl Proxy {
    /// A line to a server that forwards bytes.
    ///
    /// # Errors
    /// If no port is free.
    pub fn bytes(server: SocketAddr) -> io::Result<Self> {
        Self::start(server, false)
    }

    /// A line to an HTTP server.
    ///
    /// # Errors
    /// If no port is free.
    pub fn http(server: SocketAddr) -> io::Result<Self> {
        Self::start(server, true)
    }

    fn start(server: SocketAddr, knows_http: bool) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { server, knows_http, clock: SystemClock::shared(), random: SeededRandom::shared(1), state, changed });
        let accepting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// Where the program finds the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A round trip of this length, half of it each way, and so many bytes per second each way.
    pub fn shape(&self, round_trip: Duration, rate: Option<u64>) {
        self.shared.change(|state| {
            for line in [&mut state.up, &mut state.down] {
                (line.delay, line.rate) = (round_trip / 2, rate);
            }
        });
    }

    /// The line is whole: what stood still goes on, connections are accepted.
    pub fn open(&self) {
        self.shared.change(|state| state.mode = Mode::Open);
    }

    /// Nothing goes through, and nobody is told: connections are accepted and stay silent.
    pub fn freeze(&self) {
        self.shared.change(|state| state.mode = Mode::Frozen);
    }

    /// All connections are reset, and new ones as soon as they come.
    pub fn cut(&self) {
        self.shared.change(|state| state.mode = Mode::Cut);
        self.reset();
    }

    /// All connections are reset once.
    pub fn reset(&self) {
        let ends = std::mem::take(&mut self.shared.state().ends);
        ends.iter().filter_map(Weak::upgrade).for_each(|ends| self.shared.reset(&ends));
    }

    /// Whenever so many bytes have come from the server, the connection that carries them is reset in their middle; `count` times. A range of one
    /// number cuts always after so many.
    pub fn cut_every(&self, bytes: Range<u64>, seed: u64, count: u64) {
        let mut cuts = Cuts { random: SeededRandom::shared(seed), every: bytes, count, left: 0 };
        cuts.left = cuts.draw();
        self.shared.change(|state| state.cuts = (cuts.count > 0).then_some(cuts));
    }

    /// A part of all requests is refused.
    pub fn refuse(&self, refusal: Option<Refusal>) {
        self.shared.change(|state| state.refusal = refusal);
    }

    /// A part of all requests, 0 to 1, reaches the server, which does what it is told; nobody hears of it, and the connection is reset.
    pub fn lose_replies(&self, share: f64) {
        self.shared.change(|state| state.lost_share = share);
    }

    /// What has gone over the line.
    pub fn counts(&self) -> Counts {
        self.shared.state().counts
    }

    /// Waits until connections, requests, refusals, losses or cuts are as wanted: whether they were in time.
    pub fn wait_for(&self, at_most: Duration, is_so: impl Fn(&Counts) -> bool) -> bool {
        let state = self.shared.state();
        let (state, _) =
            self.shared.changed.wait_timeout_while(state, at_most, |state| !is_so(&state.counts)).unwrap_or_else(PoisonError::into_inner);
        is_so(&state.counts)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| state.mode = Mode::Over);
        self.reset();
        // It waits for a connection, and joins those who serve the others.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, how: impl FnOnce(&mut State) -> T) -> T {
        let result = how(&mut self.state());
        self.changed.notify_all();
        result
    }

    /// Takes the lock after the mark is set: whoever looked before is waiting by then and is woken.
    fn reset(&self, ends: &Ends) {
        ends.reset();
        self.change(|_| ());
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        for client in listener.incoming() {
            let mode = self.state().mode;
            threads.retain(|thread| !thread.is_finished());
            match (mode, client) {
                (Mode::Over, _) => break,
                (_, Err(_)) => {}
                (Mode::Cut, Ok(client)) => Ends::new(client).reset(),
                (Mode::Open | Mode::Frozen, Ok(client)) => {
                    let shared = Arc::clone(self);
                    threads.push(std::thread::spawn(move || connection::serve(&shared, client)));
                }
            }
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// From 0 to 1, the same in every run.
    fn draw(&self) -> f64 {
        draw(&self.random) as f64 / u64::MAX as f64
    }

    fn judge(&self) -> Verdict {
        let (refused, lost) = (self.draw(), self.draw());
        self.change(|state| {
            state.counts.requests += 1;
            match state.refusal {
                Some(refusal) if refused < refusal.share => {
                    state.counts.refused += 1;
                    Verdict::Refuse(refusal)
                }
                _ if lost < state.lost_share => {
                    state.counts.lost += 1;
                    Verdict::LoseReply
                }
                _ => Verdict::Forward,
            }
        })
    }
}

impl Cuts {
    fn draw(&self) -> u64 {
        self.every.start + draw(&self.random) % (self.every.end - self.every.start).max(1)
    }
}

impl State {
    /// How many of so many bytes from the server come through before their connection is cut; `None` if it is not.
    fn cut_within(&mut self, length: usize) -> Option<usize> {
        let cuts = self.cuts.as_mut()?;
        let through = usize::try_from(cuts.left).ok().filter(|&left| left <= length);
        match through {
            None => cuts.left -= length as u64,
            Some(_) => {
                cuts.left = cuts.draw();
                cuts.count -= 1;
                self.counts.cuts += 1;
                if cuts.count == 0 {
                    self.cuts = None;
                }
            }
        }
        through
    }
}

fn draw(random: &SharedRandom) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests;
