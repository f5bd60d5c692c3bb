//! A small HTTP/1.1 load generator: prepared requests over kept-alive connections.
//!
//! It writes the same signed bytes again and again (a signature holds for fifteen minutes) and
//! reads answers by their length, so that it costs little beside what it measures.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a run measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    /// Requests answered with success.
    pub(crate) requests: u64,
    /// Wall time.
    pub(crate) elapsed: Duration,
    /// Latencies in microseconds, sorted.
    latencies: Vec<u32>,
}

impl Load {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency below which a share of the requests stayed, in milliseconds.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let index = ((self.latencies.len() as f64 * share) as usize).min(last);
        self.latencies.get(index).map_or(f64::NAN, |us| f64::from(*us) / 1000.0)
    }

    /// Takes in what another run of the same kind measured.
    pub(crate) fn join(&mut self, other: Load) {
        self.requests += other.requests;
        self.elapsed += other.elapsed;
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:.0} requests/s, p50 {:.2} ms, p99 {:.2} ms ({} requests in {:.1} s)",
            self.rate(),
            self.percentile(0.50),
            self.percentile(0.99),
            self.requests,
            self.elapsed.as_secs_f64()
        )
    }
}

/// Sends requests over `connections` connections until `make` has no more for one, or time is up.
///
/// # Errors
/// When a connection breaks or a request isn't answered with success.
pub(crate) async fn run<F>(address: &str, connections: usize, limit: Duration, make: F) -> anyhow::Result<Load>
where
    F: Fn(usize, u64) -> Option<Vec<u8>> + Send + Sync + Clone + 'static,
{
    let start = Instant::now();
    let mut tasks = Vec::new();
    for connection in 0..connections {
        let (address, make) = (address.to_owned(), make.clone());
        tasks.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let mut latencies = Vec::new();
            let mut buffer = Vec::with_capacity(16 * 1024);
            let mut number = 0;
            while start.elapsed() < limit {
                let Some(request) = make(connection, number) else { break };
                let sent = Instant::now();
                stream.write_all(&request).await?;
                let status = answer(&mut stream, &mut buffer).await?;
                ensure!((200..300).contains(&status), "status {status}: {}", String::from_utf8_lossy(&buffer));
                latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                number += 1;
            }
            anyhow::Ok(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let elapsed = start.elapsed();
    latencies.sort_unstable();
    Ok(Load { requests: latencies.len() as u64, elapsed, latencies })
}

/// Reads one answer; its status. The buffer then holds the whole of it.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<u16> {
    buffer.clear();
    loop {
        let before = buffer.len();
        ensure!(stream.read_buf(buffer).await? > 0, "the server closed the connection");
        let from = before.saturating_sub(3);
        let Some(end) = buffer[from..].windows(4).position(|w| w == b"\r\n\r\n").map(|p| from + p + 4) else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end])?;
        let status = head.get(9..12).context("a short status line")?.parse()?;
        let length: usize = head
            .lines()
            .find_map(|l| l.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")))
            .map_or(Ok(0), |(_, value)| value.trim().parse())?;
        while buffer.len() < end + length {
            ensure!(stream.read_buf(buffer).await? > 0, "the server closed the connection");
        }
        return Ok(status);
    }
}
