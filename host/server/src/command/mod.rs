//! One module a subcommand.

pub(crate) mod agent;
pub(crate) mod app_proxy;
pub(crate) mod audit;
pub(crate) mod config;
pub(crate) mod console;
pub(crate) mod db;
pub(crate) mod dry_run;
pub(crate) mod init;
pub(crate) mod plugin;
pub(crate) mod round;
pub(crate) mod secret;
pub(crate) mod serve;
pub(crate) mod why;
