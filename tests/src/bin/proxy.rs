//! The fault proxy for scripts: `proxy [--http] HOST:PORT` prints where it listens, then obeys lines of standard input and answers each with a line. Its
//! end ends the line. Commands: `shape MILLISECONDS [BYTES-PER-SECOND]`, `open`, `freeze`, `cut`, `reset`, `cut-every FROM TO SEED COUNT`,
//! `refuse STATUS SECONDS SHARE`, `lose SHARE`, `counts`.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::ToSocketAddrs as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tests::proxy::{Proxy, Refusal};

fn obey(proxy: &Proxy, line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match &words[..] {
        ["shape", round_trip] => proxy.shape(Duration::from_millis(round_trip.parse()?), None),
        ["shape", round_trip, rate] => proxy.shape(Duration::from_millis(round_trip.parse()?), Some(rate.parse()?)),
        ["open"] => proxy.open(),
        ["freeze"] => proxy.freeze(),
        ["cut"] => proxy.cut(),
        ["reset"] => proxy.reset(),
        ["cut-every", from, to, seed, count] => proxy.cut_every(from.parse()?..to.parse()?, seed.parse()?, count.parse()?),
        ["refuse", status, seconds, share] => {
            proxy.refuse(Some(Refusal { status: status.parse()?, retry_after_s: seconds.parse()?, share: share.parse()? }));
        }
        ["lose", share] => proxy.lose_replies(share.parse()?),
        ["counts"] => {
            let counts = proxy.counts();
            return Ok(format!(
                "connections {} requests {} refused {} lost {} cuts {} up {} down {}",
                counts.connections, counts.requests, counts.refused, counts.lost, counts.cuts, counts.bytes_up, counts.bytes_down
            ));
        }
        _ => bail!("there is no command '{line}'"),
    }
    Ok("done".into())
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let knows_http = arguments.first().is_some_and(|first| first == "--http");
    let server = arguments.pop().context("usage: proxy [--http] HOST:PORT")?;
    let server = server.to_socket_addrs()?.next().context("the server has no address")?;
    let proxy = if knows_http { Proxy::http(server)? } else { Proxy::bytes(server)? };
    let mut output = std::io::stdout();
    writeln!(output, "{}", proxy.address())?;
    for line in std::io::stdin().lines() {
        match obey(&proxy, &line?) {
            Ok(answer) => writeln!(output, "{answer}")?,
            Err(error) => writeln!(output, "error: {error}")?,
        }
    }
    Ok(())
}
