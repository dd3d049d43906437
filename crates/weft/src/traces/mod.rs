//! What Weft leaves on a machine: objects in the kernel, and files.

mod files;
mod kept;
pub mod kernel;

pub use files::Places;
pub use kept::{Kept, PLUGIN_DIRS};
