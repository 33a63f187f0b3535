//! The actors: each owns its state, reads the clock, calls the pure code and carries out what it decided.
//!
//! Who tells whom (HTTP asks any of them):
//!
//! ```text
//! Registry ── EndpointsChanged, ─▶ LoadManager ── LeaseEnded ──────┬▶ Registry (counters), EndpointBlamed
//!    │        EndpointAnswered,      │     │                       ├▶ TpsTracker ── Publish ─▶ EventHub
//!    │        LoadReported           │     └── RequestUnserved ─┐  │
//!    │                               └── Publish ─▶ EventHub    └──┴▶ HistoryRecorder ── WriteBatch, ─▶ Persistence
//!    ├── EndpointsChanged ─▶ TpsTracker                                                  RemoveOld
//!    ├── Publish ─▶ EventHub ── Broadcast ─▶ sessions
//!    ├── SaveEndpoints ─▶ StoreDesk ─▶ Persistence
//!    └── SaveObservations ─▶ Persistence
//! ```
//!
//! Persistence answers by telling: BatchDone, OldRemoved, ObservationsSaved.
//!
//! Actors tell each other and never await an answer, with one exception: Registry awaits Persistence, which is a leaf,
//! in order to answer its own caller once an endpoint is saved.

pub mod event_hub;
pub mod facts;
pub mod history_recorder;
pub mod load_manager;
pub mod persistence;
pub mod promise;
pub mod registry;
pub mod tps_tracker;
