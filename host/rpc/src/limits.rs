//! Sizes and time limits of the protocol, in one place so that both ends agree.

use std::time::Duration;

/// The largest message either side accepts: a full kernel log and what surrounds it.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// The largest log that an agent keeps of a kernel and sends with its end.
pub const MAX_LOG: usize = 10 * 1024 * 1024;
/// How many bytes of reports travel in one call (a larger single report travels alone).
pub const MAX_REPORT_BATCH: usize = 4 * 1024 * 1024;
/// How many reports travel in one call.
pub const MAX_REPORTS: usize = 256;
/// How many bytes of orders to create kernels travel in one call (a larger single one travels alone).
pub const MAX_ORDER_BATCH: usize = 4 * 1024 * 1024;
/// For how many sessions kernels are ordered in one call.
pub const MAX_ORDERS: usize = 128;
/// The largest file that is taken in at once.
pub const MAX_UPLOAD: u64 = 64 * 1024 * 1024;
/// The largest file that is sent at once.
pub const MAX_DOWNLOAD: u64 = 4 * 1024 * 1024 * 1024;
/// How much of a file travels in one message.
pub const CHUNK: usize = 256 * 1024;

/// Establishing a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Creating and destroying kernels: the agent only accepts the work.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Executing, interrupting and reading logs.
pub const EXECUTE_TIMEOUT: Duration = Duration::from_secs(30);
/// Completing code.
pub const COMPLETE_TIMEOUT: Duration = Duration::from_secs(10);
/// Starting and ending a service of a kernel: an agent waits until it listens.
pub const SERVICE_TIMEOUT: Duration = Duration::from_secs(60);
/// Connecting to a port of a kernel.
pub const PORT_TIMEOUT: Duration = Duration::from_secs(15);
/// How many bytes of a connection to a kernel's port travel in one message.
pub const PORT_CHUNK: usize = 64 * 1024;

/// The next part of a file, or of word about work that goes on.
pub const STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls of agents to their host.
pub const HOST_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle connections are probed this often, and dropped when the probe isn't answered in time.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a probe may stay unanswered.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A pooled connection that nobody used for so long is closed.
pub const POOL_IDLE: Duration = Duration::from_secs(600);
