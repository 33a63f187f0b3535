//! Leaseway from outside: real sockets, real SQLite, endpoints that answer when the test says so.

mod support;

mod breakers;
mod choosing;
mod dashboard;
mod dashboard_login;
mod dashboard_looks;
mod doors;
mod durability;
mod endpoints;
mod failover;
mod fairness;
mod faults;
mod health;
mod inference;
mod keys;
mod keys_command;
mod leaving;
mod limits;
mod line_view;
mod loops;
mod queue;
mod queue_updates;
mod registry;
mod running;
mod sdk;
mod simulation;
mod statistics;
mod storm;
mod surplus;
mod tidy;
mod tls;
mod tls_exchange;
mod usage;
mod viewers;
mod warm_up;
