use std::io::{Read as _, Write as _};

use super::*;
use crate::http::Request;

/// Ample: nothing is measured by it, a test that hangs ends.
const SOON: Duration = Duration::from_secs(20);

/// A server that returns what it gets, with how many bytes reached it.
struct Echo {
    address: SocketAddr,
    received: Arc<(Mutex<u64>, Condvar)>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let received: Arc<(Mutex<u64>, Condvar)> = Arc::default();
        let counted = Arc::clone(&received);
        std::thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = client.read(&mut buffer) {
                        *counted.0.lock().unwrap() += length as u64;
                        counted.1.notify_all();
                        if client.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, received }
    }

    /// A server that answers every request, and what it was asked.
    fn http() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&seen);
        std::thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || {
                    let mut input = std::io::BufReader::new(client.try_clone().unwrap());
                    while let Ok(Some(request)) = Request::read(&mut input) {
                        noted.lock().unwrap().push(format!("{} {} {}", request.method, request.target, request.body.len()));
                        let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    }
                });
            }
        });
        (address, seen)
    }

    /// Waits until so many bytes have reached it.
    fn wait(&self, wanted: u64) -> bool {
        let (received, changed) = &*self.received;
        let (received, _) = changed.wait_timeout_while(received.lock().unwrap(), SOON, |received| *received < wanted).unwrap();
        *received >= wanted
    }
}

fn connect(proxy: &Proxy) -> TcpStream {
    let client = TcpStream::connect(proxy.address()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client
}

fn ask(client: &mut TcpStream, length: usize) -> io::Result<Vec<u8>> {
    let sent = crate::noise(9, length);
    let mut writer = client.try_clone()?;
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy));
    let mut back = vec![0; length];
    client.read_exact(&mut back)?;
    writing.join().unwrap()?;
    assert!(back == sent, "what comes is what was sent");
    Ok(back)
}

#[test]
fn bytes_go_both_ways_and_an_end_is_an_end() {
    let echo = Echo::start();
    let proxy = Proxy::bytes(echo.address).unwrap();
    let mut client = connect(&proxy);
    ask(&mut client, 3_000_000).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "the server ends too");
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.bytes_up, counts.bytes_down), (1, 3_000_000, 3_000_000));
}

#[test]
fn a_round_trip_takes_its_time_and_costs_no_throughput() {
    let echo = Echo::start();
    let proxy = Proxy::bytes(echo.address).unwrap();
    proxy.shape(Duration::from_millis(40), None);
    let clock = SystemClock::shared();
    let began = clock.elapsed();
    let mut client = connect(&proxy);
    ask(&mut client, 1).unwrap();
    // A round trip for the connection, one for the byte. How long it takes at most is the machine's affair.
    assert!(clock.elapsed() - began >= Duration::from_millis(80));
    let began = clock.elapsed();
    ask(&mut client, 4_000_000).unwrap();
    assert!(clock.elapsed() - began >= Duration::from_millis(40));
}

#[test]
fn a_rate_holds_for_all_connections_together() {
    let echo = Echo::start();
    let proxy = Proxy::bytes(echo.address).unwrap();
    proxy.shape(Duration::ZERO, Some(2_000_000));
    let clock = SystemClock::shared();
    let began = clock.elapsed();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| ask(&mut connect(&proxy), 100_000).unwrap());
        }
    });
    assert!(clock.elapsed() - began >= Duration::from_millis(195), "400 000 bytes at 2 000 000 per second");
}

#[test]
fn a_frozen_line_says_nothing_and_goes_on_later() {
    let echo = Echo::start();
    let proxy = Proxy::bytes(echo.address).unwrap();
    let mut old = connect(&proxy);
    ask(&mut old, 10).unwrap();
    proxy.freeze();
    let mut new = connect(&proxy);
    old.write_all(b"hello").unwrap();
    new.write_all(b"hello").unwrap();
    assert!(proxy.wait_for(SOON, |counts| counts.connections == 2));
    for client in [&mut old, &mut new] {
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let error = client.read(&mut [0; 5]).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
        client.set_read_timeout(Some(SOON)).unwrap();
    }
    assert_eq!(*echo.received.0.lock().unwrap(), 10, "nothing came through");
    proxy.open();
    for client in [&mut old, &mut new] {
        let mut back = [0; 5];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");
    }
}

#[test]
fn a_cut_resets_what_is_there_and_what_comes() {
    let echo = Echo::start();
    let proxy = Proxy::bytes(echo.address).unwrap();
    let mut old = connect(&proxy);
    ask(&mut old, 10).unwrap();
    proxy.cut();
    assert_eq!(old.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let refused = TcpStream::connect(proxy.address()).and_then(|mut client| client.read(&mut [0; 1]));
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    proxy.open();
    ask(&mut connect(&proxy), 10).unwrap();
    // Also while it stands still.
    let mut frozen = connect(&proxy);
    ask(&mut frozen, 10).unwrap();
    proxy.freeze();
    proxy.reset();
    assert_eq!(frozen.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_connection_is_cut_after_so_many_bytes() {
    let echo = Echo::start();
    let proxy = Proxy::bytes(echo.address).unwrap();
    proxy.cut_every(100_000..100_001, 1, 2);
    for cut in 1..=2 {
        let mut client = connect(&proxy);
        ask(&mut client, 60_000).unwrap();
        assert!(ask(&mut client, 60_000).is_err());
        assert!(proxy.wait_for(SOON, |counts| counts.cuts == cut));
        assert_eq!(proxy.counts().bytes_down, cut * 100_000);
    }
    ask(&mut connect(&proxy), 500_000).unwrap();
}

#[test]
fn random_cuts_are_those_of_the_seed() {
    let of = |seed| {
        let mut state = State::default();
        let cuts = Cuts { random: SeededRandom::shared(seed), every: 10..1000, count: 5, left: 500 };
        state.cuts = Some(cuts);
        (0..100).map(|_| state.cut_within(300)).collect::<Vec<_>>()
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    assert_eq!(of(1).iter().flatten().count(), 5);
    assert!(of(1).iter().flatten().all(|&through| through <= 300));
}

/// Sends a request; the status, or why there is none.
fn status(client: &mut TcpStream, target: &str) -> io::Result<String> {
    client.write_all(format!("PUT {target} HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello").as_bytes())?;
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    let text = String::from_utf8(answer).unwrap();
    if text.contains("Content-Length: 2") {
        client.read_exact(&mut [0; 2])?;
    }
    Ok(text)
}

#[test]
fn requests_are_refused_before_they_reach_the_server() {
    let (address, seen) = Echo::http();
    let proxy = Proxy::http(address).unwrap();
    let mut client = connect(&proxy);
    assert!(status(&mut client, "/first").unwrap().starts_with("HTTP/1.1 200"));
    proxy.refuse(Some(Refusal { status: 503, retry_after_s: 7, share: 1.0 }));
    let refused = status(&mut client, "/second").unwrap();
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("Retry-After: 7\r\n"), "{refused}");
    proxy.refuse(Some(Refusal { status: 429, retry_after_s: 1, share: 0.5 }));
    let answers: Vec<_> = (0..100).map(|_| status(&mut client, "/any").unwrap()).collect();
    let refused = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 429")).count();
    assert!((25..75).contains(&refused), "{refused}");
    let counts = proxy.counts();
    assert_eq!((counts.requests, counts.refused), (102, refused as u64 + 1));
    let seen = seen.lock().unwrap();
    assert_eq!((seen.len(), &*seen[0]), (101 - refused, "PUT /first 5"));
}

#[test]
fn a_lost_reply_is_of_a_request_that_was_done() {
    let (address, seen) = Echo::http();
    let proxy = Proxy::http(address).unwrap();
    proxy.lose_replies(1.0);
    let error = status(&mut connect(&proxy), "/lost").unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof), "{error}");
    assert_eq!(*seen.lock().unwrap(), ["PUT /lost 5"]);
    assert_eq!(proxy.counts().lost, 1);
    proxy.lose_replies(0.0);
    assert!(status(&mut connect(&proxy), "/kept").unwrap().starts_with("HTTP/1.1 200"));
}

#[test]
fn nothing_is_lost_on_the_way() {
    let echo = Echo::start();
    let proxy = Proxy::bytes(echo.address).unwrap();
    proxy.shape(Duration::from_millis(2), Some(50_000_000));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| ask(&mut connect(&proxy), 300_000).unwrap());
        }
    });
    assert!(echo.wait(2_400_000));
}
