//! Tests of the oracle: plans made by hand, row by row, for what each part means; compiled clusters for whole matrices; random
//! rows, which must always end; and the page that explains packets' ways.

mod arbitrary;
mod cases;
mod cluster;
mod page;
mod rows;
mod semantics;
