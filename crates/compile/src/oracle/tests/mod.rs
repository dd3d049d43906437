//! Tests of the oracle, on plans made by hand, row by row.

mod cases;
mod rows;
mod semantics;
