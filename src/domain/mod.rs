//! The decisions of Leaseway as plain code.
//!
//! Nothing here knows actors, futures, sockets, files or clocks: time, chance and the environment are arguments.
//! Therefore tables can test the same code that the simulation drives and the actors run.

pub mod attempts;
pub mod blame;
pub mod catalog;
pub mod directory;
pub mod dispatch;
pub mod endpoint;
pub mod event;
pub mod health;
pub mod history;
pub mod ids;
pub mod key_use;
pub mod keys;
pub mod last_hour;
pub mod load;
pub mod reconcile;
pub mod refused;
pub mod reports;
pub mod request;
pub mod retention;
pub mod stored_endpoint;
pub mod tally;
pub mod target;
pub mod time;
pub mod timeline;
pub mod tps;
pub mod turns;
pub mod write_behind;
