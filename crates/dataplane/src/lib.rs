//! Makes the kernel equal the plan: observe, diff, apply
