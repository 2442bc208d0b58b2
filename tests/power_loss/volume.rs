//! A file system of its own in a file, by a loop device. Needs root; released when dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Enough for the log, its database, and some blob files.
const BYTES: u64 = 512 << 20;

pub(crate) struct Volume {
    image: PathBuf,
    device: Option<String>,
    mounted: bool,
    mount: PathBuf,
}

/// Runs a command; what it says when it fails.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let done = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
    }
    Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr).trim()))
}

impl Volume {
    /// A new and empty one, its file and its mount point in a directory. The error says what is
    /// not allowed or not there.
    pub(crate) fn make(dir: &Path) -> Result<Volume, String> {
        let image = dir.join("image");
        let file = File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(BYTES).map_err(|e| e.to_string())?;
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()])?;
        Volume::mount(image, dir.join("mount"))
    }

    /// The one in a file.
    pub(crate) fn mount(image: PathBuf, mount: PathBuf) -> Result<Volume, String> {
        fs::create_dir_all(&mount).map_err(|e| e.to_string())?;
        let mut volume = Volume { image, device: None, mounted: false, mount };
        let device = run("losetup", &["--find", "--show", volume.image.to_str().unwrap()])?;
        volume.device = Some(device.clone());
        run("mount", &["-t", "ext4", &device, volume.mount.to_str().unwrap()])?;
        volume.mounted = true;
        Ok(volume)
    }

    /// Where a server may have its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.mount.join("data")
    }

    /// Copies what the device has at one moment. What the kernel holds back is not in it, as in a
    /// power cut; where the kernel wrote while it was copied, it is copied again.
    pub(crate) fn copy(&self, to: &Path) {
        let (from, to) = (self.image.to_str().unwrap(), to.to_str().unwrap());
        for _ in 0..50 {
            run("cp", &["--sparse=always", from, to]).unwrap();
            if run("cmp", &["--silent", from, to]).is_ok() {
                return;
            }
        }
        panic!("the device never rests");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted
            && let Err(why) = run("umount", &[self.mount.to_str().unwrap()])
        {
            println!("{why}");
            let _ = run("umount", &["--lazy", self.mount.to_str().unwrap()]);
        }
        if let Some(device) = &self.device
            && let Err(why) = run("losetup", &["--detach", device])
        {
            println!("{why}");
        }
    }
}
