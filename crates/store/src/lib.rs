//! Where facts come from, and where a node's own facts go.
//!
//! A [`Store`] holds a cluster's facts. [`DirectoryStore`] is a folder of manifests that nodes share, [`KubernetesStore`] the API
//! server of a Kubernetes cluster, [`EtcdStore`] keys of an etcd; all read the same objects ([`object`]), and one contract test runs against all.
//!
//! What always holds: a watch delivers a full snapshot before anything else counts; what can't be read never reads as
//! deleted; no store hands one block of addresses to two nodes.
//!
//! What is absent: what facts mean for this node (`weft-compile`), and addresses of single pods (`weft-ipam`).

mod blocks;
mod claiming;
pub mod clock;
pub mod directory;
pub mod etcd;
mod http;
pub mod kubernetes;
pub mod object;
mod seat;
pub mod store;
mod words;

pub use clock::BootTime;
pub use directory::{DirectoryOptions, DirectoryStore};
pub use etcd::{EtcdOptions, EtcdStore, EtcdTls, EtcdUser};
pub use kubernetes::{KubernetesOptions, KubernetesStore};
pub use store::{
    Claim, Event, FlannelWords, Forgotten, Hold, Notice, Published, PublishedNode, PublishedPod, Remark,
    Store, StoreError,
};
