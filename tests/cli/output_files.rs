//! Tests of the files that commands write with `-o`. Replaced files keep their mode and owner,
//! links are followed, and a file that cannot be replaced is written in place.

use crate::support::DiskServer;
use crate::{Cli, run};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The commands that write a file. The last argument, which is the file name, is omitted.
const COMMANDS: [&[&str]; 3] = [
    &["key", "get", "site", "greeting", "-o"],
    &["export", "site", "--force", "-o"],
    &["backup", "--online", "--force", "-o"],
];

fn with_item() -> Cli {
    let cli = Cli::with_store();
    cli.ok(&["key", "put", "site", "greeting", "Hello"]);
    cli
}

/// Runs one of the commands, which must succeed. Returns the size of the written file in bytes.
fn write(cli: &Cli, command: &[&str], file: &Path) -> usize {
    cli.ok(&[command, &[file.to_str().unwrap()]].concat());
    fs::read(file).unwrap().len()
}

#[test]
fn a_replaced_file_keeps_its_mode_and_owner_and_links_are_followed() {
    let cli = with_item();
    let at = |name: &str| cli.dir.path().join(name);
    for command in COMMANDS {
        fs::write(at("secret"), "old").unwrap();
        fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let owned = std::os::unix::fs::chown(at("secret"), Some(4321), Some(4322)).is_ok();
        symlink("secret", at("link")).unwrap();
        assert!(write(&cli, command, &at("link")) > 3, "{command:?}");
        let file = fs::symlink_metadata(at("secret")).unwrap();
        assert_eq!(file.mode() & 0o7777, 0o600, "{command:?}");
        assert!(!owned || (file.uid(), file.gid()) == (4321, 4322), "{command:?}");
        assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("secret"), "{command:?}");
        assert_eq!(fs::read_dir(cli.dir.path()).unwrap().count(), 2, "{command:?}");
        fs::remove_file(at("secret")).unwrap();
        // Writing to a dangling link creates its target.
        assert!(write(&cli, command, &at("link")) > 3, "{command:?}");
        assert!(at("secret").is_file());
        fs::remove_file(at("secret")).unwrap();
        fs::remove_file(at("link")).unwrap();
    }
}

#[test]
fn a_read_only_file_is_not_replaced() {
    let cli = with_item();
    let file = cli.write_file("file", b"precious");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    for command in COMMANDS {
        let error = cli.fails(1, &[command, &[&file]].concat());
        assert!(error.contains("read-only"), "{command:?}: {error}");
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert_eq!(fs::read_dir(cli.dir.path()).unwrap().count(), 1, "{command:?}");
    }
}

#[test]
fn a_mount_point_is_written_in_place() {
    let cli = with_item();
    let (source, target) = (cli.dir.path().join("source"), cli.dir.path().join("mounted"));
    for command in COMMANDS {
        fs::write(&source, "a long text that must not remain".repeat(100)).unwrap();
        fs::write(&target, "").unwrap();
        let mounted = Command::new("mount").arg("--bind").args([&source, &target]).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            println!("skipped: bind mounts require root");
            return;
        }
        let output = run(cli.command(command).arg(&target));
        Command::new("umount").arg(&target).status().unwrap();
        assert_eq!(output.code, 0, "{command:?}: {}", output.err);
        let written = fs::read(&source).unwrap();
        assert!(!written.starts_with(b"a long") && written.len() < 3000, "{command:?}");
        assert_eq!(fs::read_dir(cli.dir.path()).unwrap().count(), 2, "{command:?}");
    }
}

#[test]
fn a_file_in_a_directory_without_write_permission_is_written_in_place() {
    let cli = with_item();
    let root = tempfile::tempdir().unwrap();
    let (dir, file) = (root.path().join("dir"), root.path().join("dir/file"));
    fs::create_dir(&dir).unwrap();
    fs::write(&file, "a long text that must not remain".repeat(100)).unwrap();
    // The superuser ignores permissions, so run a copy of the binary as another user.
    let superuser = fs::metadata(root.path()).unwrap().uid() == 0;
    let binary = root.path().join("steadfast");
    fs::copy(crate::support::binary(), &binary).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
    mode(root.path(), 0o755).unwrap();
    mode(&file, 0o666).unwrap();
    mode(&dir, 0o555).unwrap();
    for args in COMMANDS {
        let mut command = Command::new(&binary);
        command.args(args).arg(&file).current_dir("/");
        command.env("FASTLY_API_ENDPOINT", cli.endpoint());
        command.env("FASTLY_API_TOKEN", crate::support::TOKEN);
        if superuser {
            command.uid(65534);
        }
        let output = run(&mut command);
        assert_eq!(output.code, 0, "{args:?}: {}", output.err);
        let written = fs::read(&file).unwrap();
        assert!(!written.starts_with(b"a long") && !written.is_empty(), "{args:?}");
        assert!(written.len() < 3000, "{args:?}: the old content was not truncated");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "{args:?}");
    }
    mode(&dir, 0o755).unwrap();
}

#[test]
fn a_backup_is_not_written_into_its_data_directory() {
    let disk = DiskServer::new(&[]);
    let cli = Cli::new();
    let data = disk.data();
    symlink(data.join("steadfast.db"), cli.dir.path().join("link")).unwrap();
    let before = fs::read_dir(&data).unwrap().count();
    let files = [data.join("new"), data.join("steadfast.db"), cli.dir.path().join("link")];
    for file in files {
        let args = ["backup", "--force", "--data", data.to_str().unwrap(), "-o"];
        let output = run(cli.bare_command(&args).arg(&file));
        assert_eq!(output.code, 2, "{}: {}", file.display(), output.err);
        output.assert_err("in the data directory");
    }
    assert_eq!(fs::read_dir(&data).unwrap().count(), before);
}

#[test]
fn devices_can_be_written_without_force() {
    let cli = with_item();
    for command in ["export", "backup"] {
        let args: &[&str] = match command {
            "export" => &["export", "site", "-o", "/dev/null"],
            _ => &["backup", "--online", "-o", "/dev/null"],
        };
        cli.ok(args);
        assert!(!Path::new("/dev/null").is_file());
    }
    assert!(cli.ok(&["export", "site", "-o", "/dev/stdout"]).contains("greeting"));
}
