//! Policy plugins: revisions by digest, the steps of their lives, bindings, and the history that rollback reads.

mod bindings;
mod history;
mod revisions;
pub mod steps;

pub use bindings::{
    BindingRow, bindings, delete_binding, delete_bindings_but, group_scheduler, set_group_scheduler, upsert_binding,
};
pub use history::{HistoryRow, Place, demotions, history, history_of, record};
pub use revisions::{
    FAILED_KEPT, RevisionRow, component, fail_revision, insert_revision, introduce_revision, known, retry_revision,
    revision, revisions, set_status, stranded,
};
