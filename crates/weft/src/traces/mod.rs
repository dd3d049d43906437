//! What Weft leaves on a machine: objects in the kernel, and files.

mod files;
pub mod kernel;

pub use files::Places;
