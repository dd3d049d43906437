//! Tests of the oracle: plans made by hand, row by row, for what each part means; compiled clusters for whole matrices; random
//! rows, which must always end.

mod arbitrary;
mod cases;
mod cluster;
mod rows;
mod semantics;
