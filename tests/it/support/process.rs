//! The real binary as a process.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::Value;

use super::LONG;

/// The binary without any variable of this environment.
pub(crate) fn tidegate(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_clear().current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Stdout and stderr of a command, as one text.
pub(crate) fn output_text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A gateway that runs in a process of its own.
pub(crate) struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (tell, lines) = mpsc::channel();
        let out = child.stdout.take().unwrap();
        let err = child.stderr.take().unwrap();
        for pipe in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
            let tell = tell.clone();
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let _ = tell.send(line);
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The first line that `wanted` accepts.
    pub(crate) fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            match self.lines.recv_timeout(LONG) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(error) => panic!("{error}; it said:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// The log line with this message, as JSON.
    pub(crate) fn logged(&mut self, message: &str) -> Value {
        let wanted = format!("\"message\":\"{message}");
        serde_json::from_str(&self.line(|line| line.contains(&wanted))).unwrap()
    }

    /// The address for clients, once the gateway is ready.
    pub(crate) fn ready(&mut self) -> SocketAddr {
        self.logged("ready")["listen"].as_str().unwrap().parse().unwrap()
    }

    /// The address of the admin plane; call it after [`ready`](Self::ready).
    pub(crate) fn admin(&self) -> SocketAddr {
        let ready = self.seen.iter().find(|line| line.contains("\"message\":\"ready")).unwrap();
        let ready: Value = serde_json::from_str(ready).unwrap();
        ready["admin_listen"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// The exit code, after the process has ended by itself.
    pub(crate) fn exit(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// The whole output. The process must have ended.
    pub(crate) fn everything(mut self) -> String {
        self.seen.extend(self.lines.iter());
        self.seen.join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
