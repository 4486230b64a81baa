//! A PostgreSQL of a test's own: in a temporary folder, on a free port, ended with the test.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tidegate::store::sql::Place;

use super::{
    LONG,
    disk::SmallDisk,
    redis::{free_port, program},
    soon,
};

/// The user as whom PostgreSQL runs where we are root, which it refuses to be.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

fn user() -> Option<User> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .unwrap_or_else(|| panic!("a user `postgres` is missing"));
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().unwrap());
    Some(User { uid: numbers.next().unwrap(), gid: numbers.next().unwrap() })
}

pub(crate) struct Postgres {
    /// Before its folder: it goes first.
    small: Option<SmallDisk>,
    folder: TempDir,
    port: u16,
    user: Option<User>,
    server: Option<Child>,
}

impl Postgres {
    /// An empty one that runs.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = user();
        if let Some(User { uid, gid }) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut postgres = Self { folder, port: free_port(), user, server: None, small: None };
        let made = postgres
            .command("initdb")
            .args(["-U", "tidegate", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C", "-D"])
            .arg(postgres.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        postgres.run().await;
        postgres
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, name: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program(name));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs it, again at the same address: where somebody else's connection has that port for a moment, once more.
    pub(crate) async fn run(&mut self) {
        self.server = Some(self.spawn());
        let answers = async {
            while self.connect().await.is_err() {
                if self.server.as_mut().unwrap().try_wait().unwrap().is_some() {
                    self.server = Some(self.spawn());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        soon("PostgreSQL", answers).await;
    }

    fn spawn(&self) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let port = self.port.to_string();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        command.args([
            "-c",
            &format!("port={port}"),
            "-c",
            "max_connections=12",
            "-c",
            "superuser_reserved_connections=3",
        ]);
        command.args(["-c", "fsync=off"]);
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// As its own superuser.
    pub(crate) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.url()).await
    }

    pub(crate) async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(&mut self.connect().await.unwrap()).await.unwrap();
    }

    /// Lets new tables be on a small disk, where one can be mounted, which takes root.
    pub(crate) async fn use_small_disk(&mut self) -> Result<(), String> {
        let folder = self.folder.path().join("small");
        fs::create_dir(&folder).unwrap();
        self.small = Some(SmallDisk::mount(&folder, "size=2m")?);
        if let Some(User { uid, gid }) = self.user {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let mut connection = self.connect().await.unwrap();
        for statement in [
            format!("CREATE TABLESPACE small LOCATION '{}'", folder.display()),
            "ALTER DATABASE postgres SET default_tablespace = small".to_owned(),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        }
        Ok(())
    }

    /// Takes every byte of the small disk, or gives them back.
    pub(crate) fn fill_small_disk(&self, full: bool) {
        let file = self.small.as_ref().unwrap().folder().join("filler");
        if full {
            let mut filler = fs::File::create(file).unwrap();
            while filler.write_all(&[0; 4096]).is_ok() {}
        } else {
            fs::remove_file(file).unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://tidegate@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) fn place(&self) -> Place {
        Place::Postgres { url: self.url().into(), password: None }
    }

    /// Ends it without waiting for its clients.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            kill_process(Pid::from_child(&server), Signal::INT).unwrap();
            server.wait().unwrap();
        }
    }

    /// Ends it and everyone who serves its clients, at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal(&server, Signal::KILL);
            server.wait().unwrap();
        }
    }

    /// Stops it where it stands: connections stay, and nothing answers.
    pub(crate) fn pause(&self) {
        signal(self.server.as_ref().unwrap(), Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        signal(self.server.as_ref().unwrap(), Signal::CONT);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends it to a server and its children, each of which has a session of its own.
fn signal(server: &Child, signal: Signal) {
    let parent = server.id();
    let mut all = vec![Pid::from_child(server)];
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let of_it =
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)) == Some(&parent.to_string());
        let number = Path::new(&entry.file_name()).to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = number.filter(|_| of_it).and_then(Pid::from_raw) {
            all.push(pid);
        }
    }
    for pid in all {
        // One that has ended meanwhile needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// Awaits that a thing becomes true by asking again and again.
pub(crate) async fn until<T: AsyncFnMut() -> bool>(what: &str, mut holds: T) {
    let again = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(LONG * 3, again).await {
        Ok(()) => {}
        Err(_) => panic!("{what}: not within {:?}", LONG * 3),
    }
}
