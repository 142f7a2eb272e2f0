//! The module's two root slots, through RAUC and the image's own `bootslot`.

use async_trait::async_trait;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

/// What failed with a root slot.
#[derive(Debug, Error)]
pub enum SlotError {
    /// A program is missing.
    #[error("cannot run {tool}; the image lacks it")]
    Tool {
        /// Which.
        tool: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program has said no.
    #[error("cannot {operation}: {reason}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// What the program said, in one line.
        reason: String,
    },
}

/// The slot that the kernel was started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booted {
    /// `a` or `b`.
    pub slot: String,
    /// Which bundles the module takes.
    pub compatible: String,
    /// The kernel's number of this boot.
    pub boot: String,
}

/// What a bundle says of itself, after its signature was found to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFacts {
    /// Which modules it is for.
    pub compatible: String,
    /// Of the image in it.
    pub version: String,
}

/// Told while a slot is written: hundredths.
pub type Hundredths<'a> = &'a (dyn Fn(u8) + Send + Sync);

/// What the agent needs of a module with two root slots.
#[async_trait]
pub trait Slots: Send + Sync {
    /// None for a module that was not started from a slot.
    fn booted(&self) -> Option<Booted>;
    /// The version of the image in a slot; empty where nobody knows.
    async fn version(&self, slot: &str) -> String;
    /// The slot that runs has proven good.
    fn proven(&self) -> bool;
    /// Checks a bundle's signature.
    async fn inspect(&self, bundle: &Path) -> Result<BundleFacts, SlotError>;
    /// Writes a bundle into the slot that does not run, and has it started next.
    async fn install(&self, bundle: &Path, told: Hundredths<'_>) -> Result<(), SlotError>;
    /// Sees to it that a slot whose writing was not seen to its end is not started.
    async fn abandon(&self, slot: &str) -> Result<(), SlotError>;
    /// Asks for a restart of the module.
    async fn reboot(&self) -> Result<(), SlotError>;
}

/// RAUC as the image has it.
#[derive(Debug, Clone)]
pub struct Rauc {
    root: PathBuf,
}

/// Where RAUC looks for its configuration, in its order.
const CONFIGURATIONS: [&str; 3] =
    ["etc/rauc/system.conf", "run/rauc/system.conf", "usr/lib/rauc/system.conf"];
/// A module whose slots cannot be looked at is in the cluster all the same.
const TOOL_LIMIT: Duration = Duration::from_secs(300);
/// The trial's mark that the slot that runs has proven good.
const PROVEN: &str = "run/spacecloud/slot-proven";

impl Rauc {
    /// Of the system whose root folder is `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn tool(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    async fn run(&self, tool: &str, arguments: &[&str]) -> Result<Output, SlotError> {
        let tool = self.tool(tool);
        let output = Command::new(&tool).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
        let late = |_| {
            let reason = format!("{} was not done after {} s", tool.display(), TOOL_LIMIT.as_secs());
            SlotError::Failed { operation: "look after the slots", reason }
        };
        let output = tokio::time::timeout(TOOL_LIMIT, output).await.map_err(late)?;
        output.map_err(|source| SlotError::Tool { tool, source })
    }

    async fn succeed(
        &self,
        operation: &'static str,
        tool: &str,
        arguments: &[&str],
    ) -> Result<(), SlotError> {
        let output = self.run(tool, arguments).await?;
        if output.status.success() {
            return Ok(());
        }
        Err(SlotError::Failed { operation, reason: last_words(&String::from_utf8_lossy(&output.stderr)) })
    }
}

#[async_trait]
impl Slots for Rauc {
    fn booted(&self) -> Option<Booted> {
        let read = |name: &str| fs::read_to_string(self.root.join(name));
        let line = read("proc/cmdline").unwrap_or_default();
        let slot = line.split_whitespace().find_map(|word| word.strip_prefix("rauc.slot="))?.to_owned();
        let configuration = CONFIGURATIONS.iter().find_map(|name| read(name).ok())?;
        let compatible = configuration.lines().find_map(|line| line.trim().strip_prefix("compatible="))?;
        let boot = read("proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Some(Booted { slot, compatible: compatible.trim().to_owned(), boot })
    }

    async fn version(&self, slot: &str) -> String {
        match self.run("usr/libexec/spacecloud/bootslot", &["version", slot]).await {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            }
            _ => String::new(),
        }
    }

    fn proven(&self) -> bool {
        self.root.join(PROVEN).exists()
    }

    async fn inspect(&self, bundle: &Path) -> Result<BundleFacts, SlotError> {
        let path = bundle.to_string_lossy();
        let output = self.run("usr/bin/rauc", &["info", "--output-format=shell", &path]).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let refuse = |reason: String| SlotError::Failed { operation: "use the bundle", reason };
        if !output.status.success() {
            return Err(refuse(last_words(&format!("{said}{}", String::from_utf8_lossy(&output.stderr)))));
        }
        let value = |key: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.map(|value| value.trim_matches('\'').to_owned())
        };
        match (value("RAUC_MF_COMPATIBLE"), value("RAUC_MF_VERSION")) {
            (Some(compatible), version) => {
                Ok(BundleFacts { compatible, version: version.unwrap_or_default() })
            }
            _ => Err(refuse("rauc info does not say what it is compatible with".to_owned())),
        }
    }

    async fn install(&self, bundle: &Path, told: Hundredths<'_>) -> Result<(), SlotError> {
        let tool = self.tool("usr/bin/rauc");
        let missing = |source| SlotError::Tool { tool: tool.clone(), source };
        // D-Bus would start it too, but gives it 25 s for that. If it cannot be started, RAUC says why.
        let _ = self.run("usr/bin/systemctl", &["start", "rauc.service"]).await;
        let mut command = Command::new(&tool);
        command.arg("install").arg(bundle).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(missing)?;
        let (mut said, mut complaints) = (String::new(), String::new());
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let read = async {
            let Some(out) = out else { return };
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(hundredths) = hundredths(&line) {
                    told(hundredths);
                }
                said.push_str(&line);
                said.push('\n');
            }
        };
        let complain = async {
            if let Some(mut err) = err {
                let _ = err.read_to_string(&mut complaints).await;
            }
        };
        tokio::join!(read, complain);
        let status = child.wait().await.map_err(missing)?;
        if status.success() {
            return Ok(());
        }
        let reason = last_words(&format!("{said}{complaints}"));
        Err(SlotError::Failed { operation: "install the bundle", reason })
    }

    async fn abandon(&self, slot: &str) -> Result<(), SlotError> {
        // RAUC is a service of its own, and would go on. It starts again when it is asked for something.
        let stopped = self.succeed("give the slot up", "usr/bin/systemctl", &["stop", "rauc.service"]).await;
        self.succeed("give the slot up", "usr/libexec/spacecloud/bootslot", &["abandon", slot]).await?;
        stopped
    }

    async fn reboot(&self) -> Result<(), SlotError> {
        self.succeed("restart the module", "usr/bin/systemctl", &["--no-block", "reboot"]).await
    }
}

/// ` 40% Copying image to rootfs.1` is 40.
fn hundredths(line: &str) -> Option<u8> {
    let (number, _) = line.trim_start().split_once('%')?;
    number.parse().ok().filter(|number| *number <= 100)
}

/// RAUC's reason where it names one, else the last line that says anything.
fn last_words(text: &str) -> String {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let named = lines().rev().find_map(|line| line.strip_prefix("LastError: "));
    let summary = |line: &str| line.ends_with("failed") || line.starts_with("D-Bus error while installing");
    let last = || lines().rev().find(|line| !summary(line));
    named.or_else(last).or_else(|| lines().next_back()).unwrap_or("it said nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    /// A root folder with programs that are shell scripts.
    fn system(scripts: &[(&str, &str)]) -> (tempfile::TempDir, Rauc) {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str, mode: u32| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Beside its place: a file that is still open for writing cannot be run.
            let new = path.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
            fs::rename(new, path).unwrap();
        };
        put("proc/cmdline", "quiet rauc.slot=b root=/dev/dm-0\n", 0o644);
        put("proc/sys/kernel/random/boot_id", "7-8-9\n", 0o644);
        put("etc/rauc/system.conf", "[system]\ncompatible=board\nbootloader=custom\n", 0o644);
        for (name, text) in scripts {
            put(name, &format!("#!/bin/sh\n{text}\n"), 0o755);
        }
        let rauc = Rauc::new(root.path());
        (root, rauc)
    }

    #[tokio::test]
    async fn a_module_knows_its_slot_and_what_is_in_it() {
        let (root, rauc) = system(&[("usr/libexec/spacecloud/bootslot", "[ $1 = version ] && echo 1.4-$2")]);
        let booted = Booted { slot: "b".into(), compatible: "board".into(), boot: "7-8-9".into() };
        assert_eq!(rauc.booted(), Some(booted));
        assert_eq!(rauc.version("b").await, "1.4-b");
        assert!(!rauc.proven());
        fs::create_dir_all(root.path().join("run/spacecloud")).unwrap();
        fs::write(root.path().join(PROVEN), "").unwrap();
        assert!(rauc.proven());
        fs::write(root.path().join("proc/cmdline"), "quiet root=/dev/vda\n").unwrap();
        assert_eq!(rauc.booted(), None);
    }

    #[tokio::test]
    async fn a_bundle_is_refused_in_raucs_own_words() {
        let good = "printf \"RAUC_MF_COMPATIBLE='board'\\nRAUC_MF_VERSION='2.0'\\n\"";
        let (_root, rauc) = system(&[("usr/bin/rauc", good)]);
        let facts = BundleFacts { compatible: "board".into(), version: "2.0".into() };
        assert_eq!(rauc.inspect(Path::new("x")).await.unwrap(), facts);
        let (_root, rauc) =
            system(&[("usr/bin/rauc", "echo 'signature verification failed: no issuer' >&2; exit 1")]);
        let refused = rauc.inspect(Path::new("x")).await.unwrap_err().to_string();
        assert_eq!(refused, "cannot use the bundle: signature verification failed: no issuer");
        let (_root, rauc) = system(&[]);
        assert!(matches!(rauc.inspect(Path::new("x")).await, Err(SlotError::Tool { .. })));
    }

    #[tokio::test]
    async fn installing_tells_how_far_it_is_and_why_it_failed() {
        let script =
            "echo installing; echo '  0% Installing'; echo ' 40% Copying'; echo '100% Installing done.'";
        let (_root, rauc) = system(&[("usr/bin/rauc", script)]);
        let told = Mutex::new(vec![]);
        rauc.install(Path::new("x"), &|n| told.lock().unwrap().push(n)).await.unwrap();
        assert_eq!(*told.lock().unwrap(), [0, 40, 100]);
        let script = "echo '100% Installing failed.'; echo 'LastError: no space'; echo 'Installing `x` failed' >&2; exit 1";
        let (_root, rauc) = system(&[("usr/bin/rauc", script)]);
        let failed = rauc.install(Path::new("x"), &|_| {}).await.unwrap_err().to_string();
        assert_eq!(failed, "cannot install the bundle: no space");
        let script = "echo 'Failed to contact rauc service: Timeout was reached' >&2; echo 'D-Bus error while installing `x`' >&2; exit 2";
        let (_root, rauc) = system(&[("usr/bin/rauc", script)]);
        let failed = rauc.install(Path::new("x"), &|_| {}).await.unwrap_err().to_string();
        assert_eq!(failed, "cannot install the bundle: Failed to contact rauc service: Timeout was reached");
    }
}
