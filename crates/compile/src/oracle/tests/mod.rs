//! Tests of the oracle: plans made by hand, row by row, for what each part means; compiled clusters for whole matrices;
//! generated services beside what Kubernetes promises; random rows, which must always end; random tables beside the kernel;
//! and the page that explains packets' ways.

mod arbitrary;
mod cases;
mod cluster;
mod cluster_services;
mod kernel;
mod page;
mod promises;
mod restricted;
mod rows;
mod semantics;
mod services;
mod tables;
