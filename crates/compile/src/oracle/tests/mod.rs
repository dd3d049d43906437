//! Tests of the oracle: plans made by hand, row by row, for what each part means; compiled clusters for whole matrices; random
//! rows, which must always end; random tables beside the kernel; and the page that explains packets' ways.

mod arbitrary;
mod cases;
mod cluster;
mod cluster_services;
mod kernel;
mod page;
mod rows;
mod semantics;
mod services;
mod tables;
