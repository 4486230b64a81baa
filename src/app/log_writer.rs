//! Log lines on their way to standard output: collected in memory, written by a thread of their own. A pipe that nobody
//! reads must not hold up requests, and a system call for each line measured 4 µs of CPU a request.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines are written out this much later at most. Killed with no chance to write, a process loses that much of its log.
const COALESCE: Duration = Duration::from_millis(5);

/// About two thousand lines. What comes while they wait for a reader is lost, and the log says how many lines.
const MOST: usize = 1024 * 1024;

/// Takes lines; a clone of it takes them to the same place.
#[derive(Clone, Debug, Default)]
pub(super) struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    lost: u64,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with it left whole lines.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogWriter {
    /// Starts the thread that writes to `out`. Dropping what is returned writes out everything and ends it.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        let writer = Self::default();
        let shared = Arc::clone(&writer.0);
        let thread = thread::Builder::new().name("log".into()).spawn(move || write_out(&shared, out))?;
        let flush = Flush { shared: Arc::clone(&writer.0), thread: Some(thread) };
        Ok((writer, flush))
    }
}

fn write_out(shared: &Shared, mut out: impl Write) {
    let mut batch = Vec::new();
    loop {
        let mut state = shared.lock();
        while state.lines.is_empty() && state.lost == 0 && !state.ended {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.ended {
            // Whatever comes in this time goes out with the same call.
            let waited = shared.changed.wait_timeout_while(state, COALESCE, |state| !state.ended);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        mem::swap(&mut batch, &mut state.lines);
        let (lost, ended) = (mem::take(&mut state.lost), state.ended);
        drop(state);
        // Where the log cannot be written there is nobody to tell.
        let _ = out.write_all(&batch);
        if lost > 0 {
            let _ = writeln!(
                out,
                "{{\"level\":\"WARN\",\"message\":\"log lines were lost: nobody reads them\",\"lines\":{lost}}}"
            );
        }
        let _ = out.flush();
        batch.clear();
        if ended {
            return;
        }
    }
}

impl Write for LogWriter {
    /// Takes one whole line, which is how the subscriber writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.lines.len() + line.len() > MOST {
            state.lost += 1;
            return Ok(line.len());
        }
        let first = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        drop(state);
        if first {
            self.0.changed.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Writes everything out when it is dropped.
#[derive(Debug)]
pub struct Flush {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A reader that does not read shall not keep the process from ending.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Drop for Flush {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
        let Some(thread) = self.thread.take() else { return };
        let (tell, told) = std::sync::mpsc::channel();
        let waiting = thread::Builder::new().spawn(move || {
            let _ = thread.join();
            let _ = tell.send(());
        });
        if waiting.is_ok() {
            let _ = told.recv_timeout(LAST_WORDS);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Writes to a list; waits for leave before each write, if it has to.
    struct Out {
        written: Arc<Mutex<Vec<u8>>>,
        leave: Option<mpsc::Receiver<()>>,
    }

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(leave) = &self.leave {
                let _ = leave.recv();
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_written_in_its_order() {
        let written = Arc::default();
        let (mut writer, flush) = LogWriter::start(Out { written: Arc::clone(&written), leave: None }).unwrap();
        let expected: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        for line in expected.lines() {
            writer.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        drop(flush);
        assert_eq!(String::from_utf8(written.lock().unwrap().clone()).unwrap(), expected);
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up_and_is_told_what_it_missed() {
        let written = Arc::default();
        let (leave, wait) = mpsc::channel();
        let (mut writer, flush) = LogWriter::start(Out { written: Arc::clone(&written), leave: Some(wait) }).unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // Twice as much as is kept, plus what the thread may have taken out already.
        for _ in 0..3 * MOST / line.len() {
            writer.write_all(&line).unwrap();
        }
        assert!(writer.0.lock().lines.len() <= MOST);
        drop(leave);
        drop(flush);
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let last: serde_json::Value = serde_json::from_str(written.lines().last().unwrap()).unwrap();
        let kept = written.lines().filter(|line| line.starts_with('x')).count();
        assert_eq!(kept as u64 + last["lines"].as_u64().unwrap(), 3 * MOST as u64 / 1024, "{last}");
    }
}
