//! What a kernel leaves for the next start of its agent, where its programs live on.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message as _;
use quarterdeck_rpc::pb;
use serde_json::{Value, json};

use super::files;
use crate::runtime::SessionSpec;

/// What the host asked for, and what came of it.
const REQUEST: &str = "request.pb";
const RESUME: &str = "resume.json";

/// What a later start of the agent needs to take up a kernel.
#[derive(Clone)]
pub(crate) struct Resumable {
    pub(crate) session: SessionSpec,
    pub(crate) spec: pb::KernelSpec,
    /// How its interpreter is talked to, where it is, and its version.
    pub(crate) dialect: String,
    pub(crate) interpreter: PathBuf,
    pub(crate) version: String,
    /// Its ports, as the host has them.
    pub(crate) ports: Value,
}

impl Resumable {
    /// Writes it into the kernel's directory.
    pub(super) fn keep(&self, dir: &Path) -> io::Result<()> {
        let session = self.session.clone();
        let request = pb::CreateKernelsRequest {
            session_id: session.session_id,
            session_name: session.session_name,
            session_type: session.session_type,
            cluster_mode: session.cluster_mode,
            cluster_size: session.cluster_size,
            access_key: session.access_key,
            kernels: vec![self.spec.clone()],
        };
        files::write_secret(&dir.join(REQUEST), &request.encode_to_vec())?;
        let facts = json!({
            "dialect": self.dialect,
            "interpreter": self.interpreter,
            "version": self.version,
            "ports": self.ports,
        });
        files::write_secret(&dir.join(RESUME), facts.to_string().as_bytes())
    }

    /// Reads it back; none when the kernel had not begun to run, or when it can't be read.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let request = pb::CreateKernelsRequest::decode(files::read(&dir.join(REQUEST)).ok()?.as_slice()).ok()?;
        let facts: Value = serde_json::from_slice(&files::read(&dir.join(RESUME)).ok()?).ok()?;
        let (session, mut kernels) = SessionSpec::of(request);
        Some(Self {
            spec: kernels.pop()?,
            session,
            dialect: facts["dialect"].as_str()?.to_owned(),
            interpreter: facts["interpreter"].as_str()?.into(),
            version: facts["version"].as_str()?.to_owned(),
            ports: facts["ports"].clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::workdir::Home;
    use super::*;

    #[test]
    fn what_lives_on_is_known_again_and_swept_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path().to_owned()).unwrap();
        let made = home.make("k1", "s").unwrap();
        home.make("k2", "s").unwrap();
        let resumable = Resumable {
            session: SessionSpec { session_id: "s".into(), cluster_size: 2, ..Default::default() },
            spec: pb::KernelSpec { kernel_id: "k1".into(), timeout_ms: 7, ..Default::default() },
            dialect: "python".into(),
            interpreter: "/usr/bin/python3".into(),
            version: "3.11.2".into(),
            ports: json!([{"name": "sshd", "host_ports": [30001]}]),
        };
        resumable.keep(&made).unwrap();
        let left = home.sweep_but(&["k1".into()]);
        assert_eq!(left.iter().map(|left| left.kernel_id.as_str()).collect::<Vec<_>>(), ["k2"]);
        let read = Resumable::read(&made).unwrap();
        assert_eq!((read.spec.timeout_ms, read.session.cluster_size, read.dialect.as_str()), (7, 2, "python"));
        assert_eq!(read.ports, resumable.ports);
        assert!(Resumable::read(&home.kernel("k2")).is_none());
    }
}
