//! The binary as users and scripts meet it: what it prints, where, and with which exit status.

mod answers;
mod mistakes;
mod run;
mod whole_life;
