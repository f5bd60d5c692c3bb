//! What is promised of the API as a whole, against real servers: every route and every field is there, for those who may,
//! and takes nonsense without falling over.
#![allow(clippy::unwrap_used)]

mod audit;
mod concurrent;
mod filters;
mod nonsense;
mod object_graph;
mod roles;
mod routes;
mod settings;
mod task_logs;
