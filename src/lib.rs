pub mod actors;
pub mod clock;
pub mod config;
pub mod domain;
pub mod lease;
pub mod store;
pub mod upstream;
