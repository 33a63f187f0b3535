//! The actors: each owns its state, reads the clock, calls the pure code and carries out what that code decides.
//!
//! Which actor tells which (HTTP asks any of them):
//!
//! ```text
//! Registry ── EndpointsChanged, ─▶ LoadManager ── LeasesEnded ─────┬▶ Registry (counters), EndpointBlamed
//!    │        EndpointAnswered,      │     │                       ├▶ TpsTracker ── Publish ─▶ EventHub
//!    │        LoadReported           │     └── RequestUnserved ─┐  │
//!    │                               └── Publish ─▶ EventHub    └──┴▶ HistoryRecorder ── WriteBatch, ─▶ Persistence
//!    ├── EndpointsChanged ─▶ TpsTracker                                                  RemoveOld
//!    ├── Publish ─▶ EventHub ── Broadcast ─▶ sessions
//!    ├── SaveEndpoints ─▶ StoreDesk ─▶ Persistence
//!    └── SaveObservations ─▶ Persistence
//! Keyring ── SaveKeys ─▶ StoreDesk ─▶ Persistence
//!    └── KeysChanged ─▶ LoadManager
//! the start ── TokensUsed ─▶ LoadManager
//! ```
//!
//! CertificateKeeper, which runs only under TLS, tells nobody; new connections read what it publishes.
//!
//! Persistence reports what came of its work with messages of its own: BatchDone, OldRemoved, ObservationsSaved.
//!
//! Actors tell each other and never await an answer, with one exception: Registry and Keyring await Persistence in order to
//! answer their own callers once an endpoint or a key is saved. That cannot deadlock, since Persistence awaits nobody.

pub mod certificate_keeper;
pub mod event_hub;
pub mod facts;
pub mod history_recorder;
pub mod keyring;
pub mod load_manager;
pub mod persistence;
pub mod promise;
pub mod registry;
pub mod tps_tracker;
