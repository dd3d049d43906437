//! What services lead to, before any row is made of it: marks and their classes, groups of endpoints, and who may be used.

pub mod eligible;
pub mod groups;
pub mod marks;
