//! Messages that hold secrets, as logs may show them.

use std::fmt;

use crate::pb::KernelSpec;

/// Scripts, variables and internal data (keys, dotfiles, credentials of registries) are left out.
impl fmt::Debug for KernelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelSpec")
            .field("kernel_id", &self.kernel_id)
            .field("cluster_hostname", &self.cluster_hostname)
            .field("image", &self.image.as_ref().map(|image| &image.canonical))
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::pb::{CreateKernelsRequest, KernelSpec};

    #[test]
    fn starts_are_shown_without_secrets() {
        let spec = KernelSpec {
            kernel_id: "k-1".to_owned(),
            environ: [("TOKEN".to_owned(), "pssst".to_owned())].into(),
            bootstrap_script: "pssst".to_owned(),
            startup_command: "run pssst".to_owned(),
            internal_data: r#"{"registry": {"password": "pssst"}}"#.to_owned(),
            ..KernelSpec::default()
        };
        let shown = format!("{:?}", CreateKernelsRequest { kernels: vec![spec], ..CreateKernelsRequest::default() });
        assert!(shown.contains("k-1") && !shown.contains("pssst"), "{shown}");
    }
}
