//! A Redis of one test: in a temporary folder, on a free port, stopped with the test.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The path of a program of PostgreSQL or Redis, wherever Debian puts it.
pub(crate) fn program(name: &str) -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let found = versions.chain(env::split_paths(&path)).chain(["/usr/sbin".into()]);
    let found = found.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("{name} is missing (Debian: postgresql, pgbouncer, redis-server); scripts/test installs it")
    })
}

/// A port without a listener at this moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// All that a server answers to commands. With `hangs_up`, the sending side is closed after the commands, because
/// Sentinels do not know QUIT. Redis itself then drops the rest of a long answer.
fn talk(port: u16, commands: &str, hangs_up: bool) -> io::Result<String> {
    let mut asking = TcpStream::connect(("127.0.0.1", port))?;
    asking.set_read_timeout(Some(Duration::from_secs(10)))?;
    asking.write_all(format!("{commands}\r\nQUIT\r\n").as_bytes())?;
    if hangs_up {
        asking.shutdown(Shutdown::Write)?;
    }
    let mut text = String::new();
    asking.read_to_string(&mut text)?;
    Ok(text)
}

/// The lines that a server answers to commands; empty if no server is there.
pub(crate) fn ask_at(port: u16, commands: &str) -> Vec<String> {
    talk(port, commands, true).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// How often a start is checked: for 10 s in all.
const LOOKS: u32 = 1000;

pub(crate) struct RedisServer {
    folder: TempDir,
    pub(crate) port: u16,
    server: Option<Child>,
}

impl RedisServer {
    /// Starts an empty server.
    pub(crate) fn start() -> Self {
        let mut redis = Self { folder: tempfile::tempdir().unwrap(), port: free_port(), server: None };
        redis.run();
        redis
    }

    /// Starts the server, again at the same address. It is empty, because it writes nothing to disk.
    pub(crate) fn run(&mut self) {
        self.run_with(&[]);
    }

    /// The same with further settings.
    pub(crate) fn run_with(&mut self, settings: &[&str]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(program("redis-server"));
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(self.folder.path()).args(settings).stdin(Stdio::null());
        self.server = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        for _ in 0..LOOKS {
            if self.try_ask("PING").is_some_and(|answer| answer == "+PONG") {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("Redis did not start: {}", fs::read_to_string(self.folder.path().join("log")).unwrap());
    }

    /// The first line of the answer to a command.
    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap()
    }

    fn try_ask(&self, command: &str) -> Option<String> {
        let text = talk(self.port, command, false).ok()?;
        Some(text.lines().next()?.to_owned())
    }

    /// The lines of the answer to a command.
    pub(crate) fn list(&self, command: &str) -> Vec<String> {
        let text = talk(self.port, command, false).unwrap();
        text.lines().filter(|line| !line.starts_with(['*', '$', '+'])).map(str::to_owned).collect()
    }

    /// Shuts the server down gracefully.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut server) = self.server.take() {
            kill_process(Pid::from_child(&server), signal).unwrap();
            server.wait().unwrap();
        }
    }

    /// Pauses the server: connections stay open, and nothing answers.
    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(self.server.as_ref().unwrap()), Signal::STOP).unwrap();
    }

    pub(crate) fn go_on(&self) {
        kill_process(Pid::from_child(self.server.as_ref().unwrap()), Signal::CONT).unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
