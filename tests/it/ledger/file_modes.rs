//! Only its owner can read the data folder, whoever created the folder.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The files below a folder that others may read or write, with their modes.
fn open_to_others(folder: &Path) -> Vec<String> {
    let mut open = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            open.push(format!("{} {mode:o}", path.display()));
        }
        if path.is_dir() {
            open.extend(open_to_others(&path));
        }
    }
    open
}

#[tokio::test]
async fn the_journal_and_all_files_are_readable_by_their_owner_only() {
    for made_before in [false, true] {
        let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let data = TempDir::new().unwrap();
        if made_before {
            // The modes that earlier versions gave.
            let journal = data.path().join("journal");
            fs::create_dir(&journal).unwrap();
            set(&journal, 0o755);
            for name in ["000000000001.journal", "refused.rows", "000000000000.damaged"] {
                fs::write(journal.join(name), b"").unwrap();
                set(&journal.join(name), 0o644);
            }
            fs::write(data.path().join("lock"), b"").unwrap();
            set(&data.path().join("lock"), 0o644);
        }
        let mut config = config(&upstream.base_url());
        config.server.data_dir = data.path().to_owned();
        let gateway = Gateway::run(config, None, data);
        assert_eq!(gateway.connect().await.create(body("smart", 1)).await.status, 200);
        assert_eq!(open_to_others(gateway.folder.path()), [""; 0], "made before: {made_before}");
    }
}

#[test]
fn a_command_creates_a_data_folder_for_its_owner_only() {
    let folder = TempDir::new().unwrap();
    settings(folder.path(), 1, "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1");
    let output = run(&mut command_with_secrets(folder.path(), &["keys", "list"]));
    assert!(output.status.success(), "{}", output_text(&output));
    let mode = fs::metadata(folder.path().join("data")).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode, open_to_others(&folder.path().join("data"))), (0o700, Vec::new()));
}
