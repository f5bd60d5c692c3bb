//! Domain types and rules. Pure: no I/O, no async, no clock but the one passed in.

pub mod dotfile;
pub mod duration;
pub mod file_mode;
pub mod ids;
pub mod image;
pub mod jwt;
pub mod lifecycle;
pub mod names;
pub mod policy;
pub mod predicates;
pub mod quantity;
pub mod redaction;
pub mod request;
pub mod scheduler_opts;
pub mod service;
pub mod session;
pub mod size;
pub mod slots;
pub mod status;
pub mod template;
pub mod time;
pub mod vfolder;

pub use ids::{
    AccessKey, AgentId, EndpointId, ImageId, KernelId, ProjectId, RouteId, SessionId, TaskId, UserId, VfolderId,
};
pub use status::{
    AgentStatus, ClusterMode, DefaultForUnspecified, KernelRole, KernelStatus, SessionResult, SessionStatus,
    SessionType, TaskStatus, UnknownWord, UserRole, UserStatus,
};
pub use time::{Clock, Timestamp};
