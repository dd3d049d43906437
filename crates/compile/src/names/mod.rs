//! Names of services, pods and addresses.
