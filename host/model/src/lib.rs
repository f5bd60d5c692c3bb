//! Domain types and rules. Pure: no I/O, no async, no clock but the one passed in.

pub mod ids;
pub mod status;
pub mod time;

pub use ids::{AccessKey, AgentId, ImageId, KernelId, ProjectId, SessionId, UserId};
pub use status::{
    AgentStatus, ClusterMode, DefaultForUnspecified, KernelRole, KernelStatus, SessionResult, SessionStatus, SessionType,
    UnknownWord, UserRole, UserStatus,
};
pub use time::{Clock, Timestamp};
