//! A Redis of a test's own: in a temporary folder, on a free port, ended with the test. Stands by itself, as the tests beside the
//! code use it too.

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

/// A program of PostgreSQL or Redis, wherever Debian puts it.
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

/// A port that nobody listens on right now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Everything that a server answers to commands. `hangs_up`: the sending side is closed behind them, as Sentinels do not know QUIT.
/// Redis itself drops the rest of a long answer when it sees that.
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

/// Everything that a server answers to commands, line by line; nothing where none is there.
pub(crate) fn ask_at(port: u16, commands: &str) -> Vec<String> {
    talk(port, commands, true).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// How often a start is looked at: 10 s in all.
const LOOKS: u32 = 1000;

pub(crate) struct RedisServer {
    folder: TempDir,
    pub(crate) port: u16,
    server: Option<Child>,
}

impl RedisServer {
    /// An empty one that runs.
    pub(crate) fn start() -> Self {
        let mut redis = Self { folder: tempfile::tempdir().unwrap(), port: free_port(), server: None };
        redis.run();
        redis
    }

    /// Runs it, again at the same address: empty, as it keeps nothing.
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

    /// The first line of what it answers to a command.
    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap()
    }

    fn try_ask(&self, command: &str) -> Option<String> {
        let text = talk(self.port, command, false).ok()?;
        Some(text.lines().next()?.to_owned())
    }

    /// Everything that it answers to a command, line by line.
    pub(crate) fn list(&self, command: &str) -> Vec<String> {
        let text = talk(self.port, command, false).unwrap();
        text.lines().filter(|line| !line.starts_with(['*', '$', '+'])).map(str::to_owned).collect()
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut server) = self.server.take() {
            kill_process(Pid::from_child(&server), signal).unwrap();
            server.wait().unwrap();
        }
    }

    /// Stops it where it stands: connections stay, and nothing answers.
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
