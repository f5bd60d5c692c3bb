//! A WASI in which nothing exists and nothing moves: no files, no environment, no network, clocks that stand still at
//! the time of the input, randomness that follows from a seed. Only standard output and error lead somewhere: to the
//! plugin's log.

use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::TryRng;
use wasmtime::StoreContextMut;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::sync::io::{poll, streams};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random, sync};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, OutputStream, Pollable, StreamError, StreamResult, subscribe,
};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiView};
use wasmtime_wasi_io::bindings::wasi::io as waiting_io;

use crate::journal::Pen;
use crate::sandbox::Sandbox;

/// State of the interfaces for one call.
pub(crate) fn context(pen: &Pen, seed: u64, now_ms: i64) -> WasiCtx {
    let now = Duration::from_millis(now_ms.max(0).unsigned_abs());
    WasiCtx::builder()
        .stdout(Paper(pen.clone()))
        .stderr(Paper(pen.clone()))
        .wall_clock(StandingClock(now))
        .monotonic_clock(StandingClock(now))
        .secure_random(SplitMix(seed))
        .insecure_random(SplitMix(seed ^ 0x5bd1_e995))
        .insecure_random_seed(u128::from(seed))
        .max_random_size(64 << 10)
        .build()
}

/// Links the interfaces that [`outline`](crate::verify::outline) lets pass.
pub(crate) fn link(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    type S = Sandbox;
    clocks::wall_clock::add_to_linker::<S, WasiClocks>(linker, S::clocks)?;
    clocks::monotonic_clock::add_to_linker::<S, WasiClocks>(linker, S::clocks)?;
    filesystem::preopens::add_to_linker::<S, WasiFilesystem>(linker, S::filesystem)?;
    sync::filesystem::types::add_to_linker::<S, WasiFilesystem>(linker, S::filesystem)?;
    random::random::add_to_linker::<S, WasiRandom>(linker, |sandbox| sandbox.ctx().ctx.random())?;
    random::insecure::add_to_linker::<S, WasiRandom>(linker, |sandbox| sandbox.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<S, WasiRandom>(linker, |sandbox| sandbox.ctx().ctx.random())?;
    cli::exit::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::environment::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::stdin::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::stdout::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::stderr::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::terminal_input::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::terminal_output::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::terminal_stdin::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::terminal_stdout::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::terminal_stderr::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    waiting_io::error::add_to_linker::<S, HasTable>(linker, |sandbox| sandbox.ctx().table)?;
    poll::add_to_linker::<S, HasIo>(linker, |sandbox| Io(sandbox.ctx().table))?;
    streams::add_to_linker::<S, HasIo>(linker, |sandbox| Io(sandbox.ctx().table))?;

    // Where time stands still there is nothing to wait for: every timer is due at once.
    linker.allow_shadowing(true);
    let mut timers = linker.instance("wasi:clocks/monotonic-clock@0.2.12")?;
    timers.func_wrap("subscribe-instant", |context, (_when,): (u64,)| Ok((due(context)?,)))?;
    timers.func_wrap("subscribe-duration", |context, (_duration,): (u64,)| Ok((due(context)?,)))?;
    linker.allow_shadowing(false);
    Ok(())
}

/// A timer that has run out.
fn due(mut context: StoreContextMut<'_, Sandbox>) -> wasmtime::Result<Resource<DynPollable>> {
    let sandbox = context.data_mut();
    sandbox.check_deadline()?;
    let table = sandbox.ctx().table;
    let due = table.push(Due)?;
    subscribe(table, due)
}

struct Due;

#[wasmtime_wasi::async_trait]
impl Pollable for Due {
    async fn ready(&mut self) {}
}

/// Streams and polling without an executor behind them. Nothing here is ever pending, so what the interfaces call
/// blocking is done at once, from whatever thread, and a guest can't make the host wait.
struct Io<'a>(&'a mut ResourceTable);

struct HasIo;

impl HasData for HasIo {
    type Data<'a> = Io<'a>;
}

struct HasTable;

impl HasData for HasTable {
    type Data<'a> = &'a mut ResourceTable;
}

/// The result of something that doesn't have to wait.
fn at_once<T>(work: impl Future<Output = T>) -> Result<T, wasmtime::Error> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Ok(result),
        Poll::Pending => Err(wasmtime::Error::msg("a policy can't wait for anything")),
    }
}

fn stream_at_once<T>(work: impl Future<Output = StreamResult<T>>) -> StreamResult<T> {
    at_once(work).map_err(StreamError::Trap)?
}

impl poll::Host for Io<'_> {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        at_once(waiting_io::poll::Host::poll(self.0, pollables))?
    }
}

impl poll::HostPollable for Io<'_> {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        at_once(waiting_io::poll::HostPollable::ready(self.0, pollable))?
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        at_once(waiting_io::poll::HostPollable::block(self.0, pollable))?
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        waiting_io::poll::HostPollable::drop(self.0, pollable)
    }
}

impl streams::Host for Io<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> wasmtime::Result<streams::StreamError> {
        waiting_io::streams::Host::convert_stream_error(self.0, error).map(Into::into)
    }
}

impl streams::HostOutputStream for Io<'_> {
    fn drop(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        at_once(waiting_io::streams::HostOutputStream::drop(self.0, stream))?
    }

    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        waiting_io::streams::HostOutputStream::check_write(self.0, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        waiting_io::streams::HostOutputStream::write(self.0, stream, bytes)
    }

    fn blocking_write_and_flush(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        stream_at_once(waiting_io::streams::HostOutputStream::blocking_write_and_flush(self.0, stream, bytes))
    }

    fn blocking_write_zeroes_and_flush(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        stream_at_once(waiting_io::streams::HostOutputStream::blocking_write_zeroes_and_flush(self.0, stream, len))
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        waiting_io::streams::HostOutputStream::subscribe(self.0, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        waiting_io::streams::HostOutputStream::write_zeroes(self.0, stream, len)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        waiting_io::streams::HostOutputStream::flush(self.0, stream)
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        stream_at_once(waiting_io::streams::HostOutputStream::blocking_flush(self.0, stream))
    }

    fn splice(
        &mut self,
        target: Resource<DynOutputStream>,
        source: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        waiting_io::streams::HostOutputStream::splice(self.0, target, source, len)
    }

    fn blocking_splice(
        &mut self,
        target: Resource<DynOutputStream>,
        source: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        stream_at_once(waiting_io::streams::HostOutputStream::blocking_splice(self.0, target, source, len))
    }
}

impl streams::HostInputStream for Io<'_> {
    fn drop(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        at_once(waiting_io::streams::HostInputStream::drop(self.0, stream))?
    }

    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        waiting_io::streams::HostInputStream::read(self.0, stream, len)
    }

    fn blocking_read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        stream_at_once(waiting_io::streams::HostInputStream::blocking_read(self.0, stream, len))
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        waiting_io::streams::HostInputStream::skip(self.0, stream, len)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        stream_at_once(waiting_io::streams::HostInputStream::blocking_skip(self.0, stream, len))
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        waiting_io::streams::HostInputStream::subscribe(self.0, stream)
    }
}

/// Standard output and error: into the journal.
struct Paper(Pen);

impl IsTerminal for Paper {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Paper {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only the third WASI asks for this one, and it isn't linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Paper(self.0.clone()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Paper {
    async fn ready(&mut self) {}
}

impl OutputStream for Paper {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.0.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(4096)
    }
}

/// A clock that always shows the time of the input.
struct StandingClock(Duration);

impl HostWallClock for StandingClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.0
    }
}

impl HostMonotonicClock for StandingClock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The SplitMix64 generator: the same numbers for the same seed on every machine and in every version, which the
/// generators of the `rand` crate don't promise. Nobody's secrets depend on it.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl TryRng for SplitMix {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
        for chunk in target.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}
