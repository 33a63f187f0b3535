//! Leaseway: a load balancer for self-hosted LLM servers.
//!
//! Clients talk to one OpenAI-compatible address. Each request is granted a **lease** on one **endpoint**; if no **slot**
//! is free it **waits** in one bounded line. The answer is relayed byte for byte and measured on its way. The lease ends with
//! the last byte, or when the client leaves.
//!
//! # Two principles
//!
//! **Ask at the edge, tell inside.** HTTP handlers ask actors and await the answer. Actors push facts to each other and
//! never await one another: every actor already holds what it needs for its decisions. ([`actors`] names the one exception.)
//!
//! **One owner per fact.** [`Registry`](actors::registry::Registry): which endpoints exist, their health, models and
//! counters. [`Keyring`](actors::keyring::Keyring): who may do what.
//! [`LoadManager`](actors::load_manager::LoadManager): who holds a slot, who waits, what each key has used.
//! [`TpsTracker`](actors::tps_tracker::TpsTracker): speeds. [`HistoryRecorder`](actors::history_recorder::HistoryRecorder):
//! the timeline, the totals, and what is not written yet. [`EventHub`](actors::event_hub::EventHub): who listens.
//! [`CertificateKeeper`](actors::certificate_keeper::CertificateKeeper): the certificate of the server.
//! [`Persistence`](actors::persistence::Persistence) owns nothing; it executes.
//!
//! And one technique: **pure core, thin actors.** Decisions live in [`domain`] as plain code whose methods take `now` and
//! return decisions. The same code is tested by tables, driven through random histories by the simulation in
//! `tests/it/simulation.rs`, and run inside the actor.
//!
//! # Flow of one request
//!
//! ```text
//! client ─▶ http::serving ──────── AcquireLease{ask, deadline} ─▶ LoadManager (Dispatcher) ─▶ Lease | Refusal
//!              │ Lease                                              ▲ EndpointsChanged (Registry)
//!              ▼                                                    │
//!         upstream::forward ─▶ endpoint ─▶ LeasedBody (owns the lease, counts tokens) ─▶ client
//!                                            │ end, or drop = abandoned
//!                                            └─ EndLease{lease, outcome} ─▶ LoadManager ── LeasesEnded ─┬▶ TpsTracker
//!                                                                                                      ├▶ HistoryRecorder
//!                                                                                                      └▶ Registry
//! ```
//!
//! If an endpoint fails a request before the first byte, the request hands in the failed lease, which ends, and asks for a
//! lease on an endpoint that it has not tried. A request never holds two leases. An endpoint counts leases; counters of
//! requests count the final lease only.
//!
//! An ended lease is counted in memory at once, and in the database within `database.flush_interval_ms`: HistoryRecorder
//! gathers deltas and rows, Persistence writes them in one transaction on a thread of its own, and a batch that fails is kept.
//!
//! A request costs one message out and one back, no lock and no database. `Drop` cleans up: a future that is dropped while its
//! request waits takes the request out of the line; a body that is dropped abandons its lease and closes the connection to
//! the endpoint. actix drops both when the client leaves.
//!
//! # Map, in reading order
//!
//! - [`domain`]: the pure code. Start with [`domain::dispatch`], whose first lines list its invariants.
//! - [`dialect`]: the forms of the APIs that are spoken: requests, streams, usage, errors. Pure, too.
//! - [`clock`], [`config`], [`store`]: the only places that know time, environment and database.
//! - [`certificate`]: the files of the server's certificate and key.
//! - [`lease`]: the value that reports its own end.
//! - [`upstream`]: talking to endpoints; the only place that knows awc.
//! - [`actors`]: thin shells around the pure code, and who tells whom.
//! - [`http`]: every route in one table, every error in another.
//! - [`app`]: starts, connects and stops all parts, in order. [`demo`]: endpoints and traffic for a machine without a GPU.
//!   [`command`]: what an operator does at the command line.
//!
//! A module imports only from those above it in this list; `tests/it/tidy.rs` checks it.

pub mod domain;

pub mod dialect;

pub mod clock;
pub mod config;
pub mod store;

pub mod certificate;

pub mod lease;

pub mod upstream;

pub mod actors;

pub mod http;

pub mod app;
pub mod command;
pub mod demo;

/// One thread often frees memory that another thread allocated; the system's allocator is slow at that.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
