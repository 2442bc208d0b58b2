//! An ext4 file system on a loop device. Requires root. Dropping a [`LoopDevice`] unmounts it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of the file system in bytes: enough for the WAL, the database and some blob files.
const BYTES: u64 = 512 << 20;

pub(crate) struct LoopDevice {
    image: PathBuf,
    device: Option<String>,
    mounted: bool,
    mount: PathBuf,
}

/// Runs a command. If the command fails, returns its standard error.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let done = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
    }
    Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr).trim()))
}

impl LoopDevice {
    /// Creates and mounts an empty file system, with its image and mount point in `dir`.
    ///
    /// # Errors
    /// Returns an error message if a required tool is missing or fails, for example without root.
    pub(crate) fn format(dir: &Path) -> Result<LoopDevice, String> {
        let image = dir.join("image");
        let file = File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(BYTES).map_err(|e| e.to_string())?;
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()])?;
        LoopDevice::mount(image, dir.join("mount"))
    }

    /// Mounts the file system in an image.
    pub(crate) fn mount(image: PathBuf, mount: PathBuf) -> Result<LoopDevice, String> {
        fs::create_dir_all(&mount).map_err(|e| e.to_string())?;
        let mut loop_device = LoopDevice { image, device: None, mounted: false, mount };
        let device = run("losetup", &["--find", "--show", loop_device.image.to_str().unwrap()])?;
        loop_device.device = Some(device.clone());
        run("mount", &["-t", "ext4", &device, loop_device.mount.to_str().unwrap()])?;
        loop_device.mounted = true;
        Ok(loop_device)
    }

    /// Returns the path of a data directory on the file system.
    pub(crate) fn data(&self) -> PathBuf {
        self.mount.join("data")
    }

    /// Copies the device in the state that a power cut leaves, without the kernel's dirty pages.
    /// Repeats the copy if the kernel writes to the device while it is being copied.
    pub(crate) fn copy(&self, to: &Path) {
        let (from, to) = (self.image.to_str().unwrap(), to.to_str().unwrap());
        for _ in 0..50 {
            run("cp", &["--sparse=always", from, to]).unwrap();
            if run("cmp", &["--silent", from, to]).is_ok() {
                return;
            }
        }
        panic!("the device keeps changing");
    }
}

impl Drop for LoopDevice {
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
