//! A PostgreSQL of one test: in a temporary folder, on a free port, stopped with the test.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tidegate::store::sql::DatabaseLocation;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{
    LONG,
    disk::SmallDisk,
    redis::{free_port, program},
    soon,
};

/// The user that runs PostgreSQL if the tests run as root, which PostgreSQL refuses to be.
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
    /// Before its folder, so that it is dropped first.
    small: Option<SmallDisk>,
    folder: TempDir,
    port: u16,
    user: Option<User>,
    server: Option<Child>,
}

impl Postgres {
    /// Starts an empty server.
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

    /// A standby of this server, made by `pg_basebackup`. It follows this server until it is promoted.
    pub(crate) async fn standby(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(User { uid, gid }) = self.user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut standby = Self { folder, port: free_port(), user: self.user, server: None, small: None };
        let source = format!("host=127.0.0.1 port={} user=tidegate", self.port);
        let mut backup = standby.command("pg_basebackup");
        backup.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "-d", &source]);
        let made = backup.arg("-D").arg(standby.data()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        standby.run().await;
        standby
    }

    /// Makes a standby the primary.
    pub(crate) async fn promote(&self) {
        self.execute("SELECT pg_promote(true, 60)").await;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
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

    /// Starts the server, again at the same address. If another program's connection has the port for a moment, the
    /// start is repeated.
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
        command.arg("-D").arg(self.data()).args(["-c", "listen_addresses=127.0.0.1", "-c"]);
        command.arg(format!("unix_socket_directories={}", self.folder.path().display()));
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

    /// A PgBouncer in front of the server, in transaction mode, with further settings: the installed program, or the
    /// one that `TIDEGATE_TEST_PGBOUNCER` names.
    pub(crate) async fn pooler(&self, settings: &str) -> Pooler {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        if let Some(User { uid, gid }) = self.user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let file = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n{settings}\n",
            self.port
        );
        // With `auth_type = any`, every client becomes the user of the database.
        let text = text.replace(&format!("port={}\n", self.port), &format!("port={} user=tidegate\n", self.port));
        fs::write(&file, text).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = self.command(&other_pooler().unwrap_or_else(|| "pgbouncer".to_owned()));
        let server = command.arg(&file).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let pooler = Pooler { server, folder, port };
        until("PgBouncer", async || match PgConnection::connect(&pooler.url()).await {
            Ok(_) => true,
            // PgBouncer answers, and refuses settings that it does not know.
            Err(error) => error.as_database_error().is_some(),
        })
        .await;
        pooler
    }

    /// Connects as the server's own superuser.
    pub(crate) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.url()).await
    }

    pub(crate) async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(&mut self.connect().await.unwrap()).await.unwrap();
    }

    /// Puts new tables on a small disk, if one can be mounted, which takes root.
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

    /// Fills the small disk, or frees it.
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

    /// The folder of the server's Unix socket, and the port in the socket's name.
    pub(crate) fn socket(&self) -> (&Path, u16) {
        (self.folder.path(), self.port)
    }

    pub(crate) fn place(&self) -> DatabaseLocation {
        DatabaseLocation::Postgres { url: self.url().into(), password: None }
    }

    /// Stops the server without waiting for its clients.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            kill_process(Pid::from_child(&server), Signal::INT).unwrap();
            server.wait().unwrap();
        }
    }

    /// Kills the server and the processes that serve its clients.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal(&server, Signal::KILL);
            server.wait().unwrap();
        }
    }

    /// Pauses the server: connections stay open, and nothing answers.
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

/// The path of a second PgBouncer of 1.21 or later, besides the installed one.
pub(crate) fn other_pooler() -> Option<String> {
    std::env::var("TIDEGATE_TEST_PGBOUNCER").ok()
}

/// Sends a signal to a server and to its children, each of which has a session of its own.
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
        // A child that has ended meanwhile needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// A PgBouncer of one test.
pub(crate) struct Pooler {
    server: Child,
    folder: TempDir,
    port: u16,
}

impl Pooler {
    pub(crate) fn url(&self) -> String {
        format!("postgres://tidegate@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// An address that leads to one server after the other, as the address of a cluster does. A connection stays with the
/// server that it was made to.
pub(crate) struct MovableAddress {
    pub(crate) address: SocketAddr,
    leads_to: Arc<Mutex<SocketAddr>>,
    accepting: JoinHandle<()>,
}

impl MovableAddress {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let leads_to = Arc::new(Mutex::new(server));
        let target = Arc::clone(&leads_to);
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = *target.lock().unwrap();
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(server).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { address, leads_to, accepting }
    }

    /// Leads new connections to another server.
    pub(crate) fn point_to(&self, server: SocketAddr) {
        *self.leads_to.lock().unwrap() = server;
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://tidegate@{}/postgres", self.address)
    }
}

impl Drop for MovableAddress {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Waits until a condition holds, by checking it again and again.
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
