//! Container images, written as OCI archives: one tar file that `ctr -n k8s.io images import`, `podman load` and `skopeo` read.
//!
//! What always holds: the same content gives the same bytes, whoever writes it and when: times, owners and order are fixed.
//! What it doesn't do: read images, talk to registries, build on other images. Source: OCI image specification 1.1.

mod layer;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use layer::{Compression, Entry, Layer};

/// What an image says of itself, beside its files.
#[derive(Debug, Clone, Default)]
pub struct Image<'a> {
    /// Full names, `registry/name:tag`. All are the same image.
    pub names: &'a [String],
    /// What is started.
    pub entrypoint: &'a [&'a str],
    /// Arguments where a pod gives none.
    pub arguments: &'a [&'a str],
    /// `NAME=VALUE`.
    pub environment: &'a [&'a str],
    /// Keys and values for people and registries (`org.opencontainers.image.…`).
    pub labels: &'a [(&'a str, &'a str)],
}

/// A blob's digest and size, as manifests name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Hexadecimal SHA-256.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

impl Blob {
    fn of(bytes: &[u8]) -> Self {
        Self { sha256: hex(&Sha256::digest(bytes)), size: bytes.len() as u64 }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Image<'_> {
    /// Writes an archive of this image, with one layer. The file is there when it is whole.
    ///
    /// # Errors
    /// Where a file can't be read or written.
    pub fn write(&self, layer: &Layer, to: &Path) -> Result<()> {
        let config = to_json(&self.config(layer))?;
        let manifest = to_json(&manifest(&Blob::of(&config), layer))?;
        let index = to_json(&self.index(&Blob::of(&manifest)))?;
        let unfinished = to.with_extension("new");
        let file =
            File::create(&unfinished).with_context(|| format!("can't make {}", unfinished.display()))?;
        let mut archive = tar::Builder::new(BufWriter::new(file));
        layer::add(
            &mut archive,
            "oci-layout",
            &Entry::file(to_json(&json!({"imageLayoutVersion": "1.0.0"}))?),
        )?;
        layer::add(&mut archive, "index.json", &Entry::file(index))?;
        for blob in [&config, &manifest] {
            let path = format!("blobs/sha256/{}", Blob::of(blob).sha256);
            layer::add(&mut archive, &path, &Entry::file(blob.clone()))?;
        }
        let content =
            File::open(layer.path()).with_context(|| format!("can't open {}", layer.path().display()))?;
        let path = format!("blobs/sha256/{}", layer.blob().sha256);
        layer::add_from(&mut archive, &path, layer.blob().size, BufReader::new(content))?;
        archive.into_inner().and_then(|mut out| out.flush()).context("can't end the archive")?;
        std::fs::rename(&unfinished, to).with_context(|| format!("can't make {}", to.display()))
    }

    fn config(&self, layer: &Layer) -> Value {
        let labels: serde_json::Map<String, Value> =
            self.labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "created": EPOCH,
            "config": {
                "Entrypoint": self.entrypoint, "Cmd": self.arguments, "Env": self.environment, "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.content_sha256())]},
            "history": [{"created": EPOCH, "created_by": "cargo xtask"}],
        })
    }

    /// The archive's table of contents: one entry a name, in the form that containerd and skopeo read.
    fn index(&self, manifest: &Blob) -> Value {
        let entry = |name: &String| {
            json!({
                "mediaType": MANIFEST, "digest": manifest.digest(), "size": manifest.size,
                "platform": {"architecture": architecture(), "os": "linux"},
                "annotations": {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": name.rsplit(':').next().unwrap_or(name),
                },
            })
        };
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": self.names.iter().map(entry).collect::<Vec<_>>(),
        })
    }
}

/// When everything in an image was made: never, so that the same content is the same image.
const EPOCH: &str = "1970-01-01T00:00:00Z";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn manifest(config: &Blob, layer: &Layer) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest(), "size": config.size,
        },
        "layers": [{
            "mediaType": layer.media_type(), "digest": layer.blob().digest(), "size": layer.blob().size,
        }],
    })
}

fn to_json(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("can't write JSON")
}

/// This machine's architecture in OCI's words, which are Go's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn written(folder: &Path, name: &str) -> Vec<u8> {
        let entries = [
            ("bin", Entry::Folder),
            ("bin/tool", Entry::Program(b"#!/bin/tool".to_vec())),
            ("sbin", Entry::Link("bin".into())),
        ];
        let layer = Layer::of(folder, Compression::Gzip, &entries).unwrap();
        let names = ["weft.dev/tool:1".to_owned(), "weft.dev/tool:latest".to_owned()];
        let image = Image { names: &names, entrypoint: &["/bin/tool"], ..Image::default() };
        let to = folder.join(name);
        image.write(&layer, &to).unwrap();
        std::fs::read(to).unwrap()
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let first = written(folder.path(), "a.tar");
        assert_eq!(first, written(folder.path(), "b.tar"));
        // Neither the layer's own file nor an unfinished archive stays.
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn every_blob_is_there_under_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = written(folder.path(), "a.tar");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut files = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        for (path, content) in files.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert_eq!(*path, format!("blobs/sha256/{}", Blob::of(content).sha256));
        }
        let read = |path: &str| serde_json::from_slice::<Value>(&files[path]).unwrap();
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
        let index = read("index.json");
        assert_eq!(index["manifests"][1]["annotations"]["io.containerd.image.name"], "weft.dev/tool:latest");
        let manifest = read(&blob(&index["manifests"][0]["digest"]));
        let config = read(&blob(&manifest["config"]["digest"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/tool"]));
        // What was compressed is what the configuration names.
        let layer = &files[&blob(&manifest["layers"][0]["digest"])];
        let mut content = Vec::new();
        flate2::read::GzDecoder::new(layer.as_slice()).read_to_end(&mut content).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", Blob::of(&content).sha256)]));
        let mut names = Vec::new();
        for entry in tar::Archive::new(content.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            names.push(format!("{} {:o}", entry.path().unwrap().display(), entry.header().mode().unwrap()));
        }
        assert_eq!(names, ["bin/ 755", "bin/tool 755", "sbin 777"]);
    }
}
