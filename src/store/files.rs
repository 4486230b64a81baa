//! Files that only their owner can read.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// Replaces the content of a file, completely or not at all, even if a power loss interrupts the call. Only the file's owner can read the
/// new file.
///
/// # Errors
/// When the file cannot be written.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut fresh = OsString::from(path);
    fresh.push(".new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// Creates a folder and its missing parents. Only their owner can enter the created folders. An existing folder stays as it is.
///
/// # Errors
/// When the folder cannot be created.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Removes all permissions of the group and of other users on a file or folder. An earlier version of Tidegate may have granted them.
///
/// # Errors
/// When the system refuses, because another user owns the file.
#[cfg(unix)]
pub fn take_from_others(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = fs::metadata(path)?.permissions();
    let mode = permissions.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    permissions.set_mode(mode & 0o700);
    fs::set_permissions(path, permissions)
}

/// Does nothing on systems without Unix permissions. On Unix, the function of this name removes the permissions of other users on a file.
#[cfg(not(unix))]
pub fn take_from_others(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Returns the identity of the file at a path, or `None` without a file.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    #[cfg(unix)]
    return Some((std::os::unix::fs::MetadataExt::dev(&metadata), std::os::unix::fs::MetadataExt::ino(&metadata)));
    #[cfg(not(unix))]
    return metadata.is_file().then_some((0, 0));
}

/// Creates a missing database file. SQLite gives the files beside it the same mode.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}
