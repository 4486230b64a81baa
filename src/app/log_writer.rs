//! Writes log lines to standard output: collects them in memory, and a separate thread writes them. A pipe that nobody
//! reads must not block requests, and one system call for each line costs 4 µs of CPU a request.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// A line is written at most this much later. A process that is killed loses up to this much of its log.
const COALESCE: Duration = Duration::from_millis(5);

/// The most bytes that wait: about two thousand lines. Further lines are dropped and counted, and the log says how
/// many.
const MAX_BUFFERED: usize = 1024 * 1024;

/// Accepts log lines and keeps them in memory, for the thread that writes them. All clones share one buffer.
#[derive(Clone, Debug, Default)]
pub(super) struct LogWriter(Arc<Buffer>);

#[derive(Debug, Default)]
struct Buffer {
    state: Mutex<BufferState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct BufferState {
    lines: Vec<u8>,
    dropped: u64,
    ended: bool,
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, BufferState> {
        // A thread that panicked while it held the lock left whole lines.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogWriter {
    /// Starts the thread that writes log lines to `out`. Dropping the returned [`Flush`] writes all waiting lines and ends the thread.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        let writer = Self::default();
        let shared = Arc::clone(&writer.0);
        let thread = thread::Builder::new().name("log".into()).spawn(move || write_out(&shared, out))?;
        let flush = Flush { shared: Arc::clone(&writer.0), thread: Some(thread) };
        Ok((writer, flush))
    }
}

fn write_out(shared: &Buffer, mut out: impl Write) {
    let mut batch = Vec::new();
    loop {
        let mut state = shared.lock();
        while state.lines.is_empty() && state.dropped == 0 && !state.ended {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.ended {
            // Lines that arrive in this time are written with the same system call.
            let waited = shared.changed.wait_timeout_while(state, COALESCE, |state| !state.ended);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        mem::swap(&mut batch, &mut state.lines);
        let (dropped, ended) = (mem::take(&mut state.dropped), state.ended);
        drop(state);
        // An error of the log itself cannot be reported anywhere.
        let _ = out.write_all(&batch);
        if dropped > 0 {
            let _ = writeln!(
                out,
                "{{\"level\":\"WARN\",\"message\":\"log lines were dropped: standard output is not read fast enough\",\"lines\":{dropped}}}"
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
    /// Accepts one whole line: the subscriber writes each line with one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.lines.len() + line.len() > MAX_BUFFERED {
            state.dropped += 1;
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

/// A guard of the log: its drop writes all waiting log lines and ends the thread of the log.
#[derive(Debug)]
pub struct Flush {
    shared: Arc<Buffer>,
    thread: Option<JoinHandle<()>>,
}

/// The longest wait for the last lines: a pipe that nobody reads must not keep the process from ending.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

impl Drop for Flush {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
        let Some(thread) = self.thread.take() else { return };
        let (done_sender, done) = std::sync::mpsc::channel();
        let waiting = thread::Builder::new().spawn(move || {
            let _ = thread.join();
            let _ = done_sender.send(());
        });
        if waiting.is_ok() {
            let _ = done.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Collects writes in a list. Waits for permission before each write if `allowed` is set.
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
    fn lines_are_written_in_order() {
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
    fn a_blocked_reader_does_not_block_writers_and_the_log_counts_the_lost_lines() {
        let written = Arc::default();
        let (leave, wait) = mpsc::channel();
        let (mut writer, flush) = LogWriter::start(Out { written: Arc::clone(&written), leave: Some(wait) }).unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // Twice the buffer, plus the lines that the thread may have taken already.
        for _ in 0..3 * MAX_BUFFERED / line.len() {
            writer.write_all(&line).unwrap();
        }
        assert!(writer.0.lock().lines.len() <= MAX_BUFFERED);
        drop(leave);
        drop(flush);
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let last: serde_json::Value = serde_json::from_str(written.lines().last().unwrap()).unwrap();
        let kept = written.lines().filter(|line| line.starts_with('x')).count();
        assert_eq!(kept as u64 + last["lines"].as_u64().unwrap(), 3 * MAX_BUFFERED as u64 / 1024, "{last}");
    }
}
