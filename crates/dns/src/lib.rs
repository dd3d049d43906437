//! The DNS server and forwarder
