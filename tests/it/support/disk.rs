//! A small disk of one test.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The disk is mounted until this is dropped, which has to happen before its folder is deleted.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a disk at this folder, which takes root.
    pub(crate) fn mount(folder: &Path, options: &str) -> Result<Self, String> {
        match Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).output() {
            Ok(output) if output.status.success() => Ok(Self(folder.to_owned())),
            other => Err(format!("{other:?}")),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
