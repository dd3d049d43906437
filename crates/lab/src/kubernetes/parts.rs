//! The programs and images of a Kubernetes, as files of the real machine.

use std::path::{Path, PathBuf};

use crate::LabError;

/// Folders with what a cluster is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    programs: PathBuf,
    images: PathBuf,
}

/// What a cluster starts. What clients need besides (`kubectl`, `e2e.test`) is among it.
const PROGRAMS: [&str; 10] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
];

impl Parts {
    /// Programs in one folder, image archives (`*.tar`) in another.
    ///
    /// # Errors
    /// Where a program that a cluster can't do without is missing.
    pub fn in_folders(programs: &Path, images: &Path) -> Result<Self, LabError> {
        for name in PROGRAMS {
            let path = programs.join(name);
            std::fs::metadata(&path).map_err(LabError::file("find", path))?;
        }
        std::fs::metadata(images).map_err(LabError::file("find", images))?;
        Ok(Self { programs: programs.to_owned(), images: images.to_owned() })
    }

    /// The folder of programs on the real machine.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The folder of image archives on the real machine.
    pub fn images(&self) -> &Path {
        &self.images
    }

    /// Names of the image archives.
    pub(super) fn archives(&self) -> Result<Vec<String>, LabError> {
        let entries = std::fs::read_dir(&self.images).map_err(LabError::file("list", &self.images))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut archives: Vec<String> = names.filter(|name| name.ends_with(".tar")).collect();
        archives.sort();
        Ok(archives)
    }
}
