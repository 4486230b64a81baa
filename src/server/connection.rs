//! Serves one client connection. hyper speaks HTTP; this module adds what hyper lacks: separate deadlines for the head,
//! for idle time and for a client that does not read, and a test of whether a client left or only closed its sending
//! side.

use std::{
    future::poll_fn,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, tcp::OwnedWriteHalf},
    sync::Semaphore,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    deadlines::Deadlines,
    framing::{Framing, FramingError},
    guard::Guard,
    heartbeat::Heartbeat,
    http_version::HttpConnection,
    http2,
    observer::{Client, Observer, OpenConnection, Rejection},
    progress::Progress,
    requests::Requests,
    service::Service,
    shutdown::Shutdown,
    socket::{self, Socket, Transport, connection_broken, enable_keepalive, linger},
    streams::Streams,
    tls, unread,
};

/// The longest head of a request, and the limit of hyper's buffers, which is 417,792 bytes by default. `Framing` checks
/// the head first. OpenAI documents 64 KiB for all headers together.
pub(super) const MAX_BUFFER: usize = 64 * 1024;

/// What all connections of one listener of the HTTP server share: the service, deadlines, shutdown signal, observer and TLS.
#[derive(Clone)]
pub struct ServerContext<S> {
    /// Answers the requests.
    pub service: S,
    /// The deadlines of the next connection.
    pub deadlines: Deadlines,
    /// The shutdown signal.
    pub shutdown: Shutdown,
    /// Receives the events of connections.
    pub observer: Arc<dyn Observer>,
    /// TLS. `None` means plain HTTP.
    pub tls: Option<TlsContext>,
    /// The worker's heartbeat, which runs while the listener accepts.
    pub heartbeat: Arc<Heartbeat>,
}

/// What the TLS connections of the HTTP server share: the acceptor that does the handshakes, and the slots for connections.
#[derive(Clone)]
pub struct TlsContext {
    /// Performs TLS handshakes.
    pub acceptor: TlsAcceptor,
    /// Limits connections. Each additional concurrent request of an HTTP/2 connection takes a slot, too.
    pub slots: Arc<Semaphore>,
}

/// Serves a connection until it ends.
pub(super) async fn serve<S: Service>(stream: TcpStream, peer: IpAddr, shared: ServerContext<S>) {
    // Nagle's algorithm could delay the end of a streamed event by 40 ms.
    let _ = stream.set_nodelay(true);
    let client = shared.observer.opened(peer);
    let _open = OpenConnection(&*shared.observer);
    let (read, write) = stream.into_split();
    let write = Arc::new(write);
    let progress =
        Arc::new(Progress::new(shared.shutdown.leaving(), Arc::clone(&shared.heartbeat), shared.tls.is_some()));
    let socket = Socket { read, write: Arc::clone(&write), progress: Arc::clone(&progress) };
    let connection = Connection { shared: &shared, write, progress, client };
    match &shared.tls {
        None => connection.http1(socket).await,
        // This future is larger. Boxing it keeps plain connections small.
        Some(secure) => Box::pin(connection.tls(socket, secure)).await,
    }
}

/// A connection without its transport.
struct Connection<'a, S> {
    shared: &'a ServerContext<S>,
    write: Arc<OwnedWriteHalf>,
    progress: Arc<Progress>,
    client: Arc<dyn Client>,
}

impl<S: Service> Connection<'_, S> {
    /// Performs the handshake, then serves the HTTP version that the client chose.
    async fn tls(self, socket: Socket, secure: &TlsContext) {
        let shutdown = &self.shared.shutdown;
        let observer = &self.shared.observer;
        let accepted = tokio::select! {
            biased;
            accepted = timeout(self.shared.deadlines.first_byte, tls::accept(&secure.acceptor, socket)) => accepted,
            // No request came yet, so none is lost.
            () = shutdown.draining() => return,
        };
        match accepted {
            Ok(Ok(Err(socket))) => {
                observer.tls_failed();
                self.close(socket, CloseMode::last(observer.rejection(Rejection::PlainHttp))).await;
            }
            Ok(Ok(Ok((stream, is_h2)))) => {
                self.progress.handshake_done(is_h2);
                if is_h2 {
                    self.http2(stream, Arc::clone(&secure.slots)).await;
                } else {
                    self.http1(stream).await;
                }
            }
            // A port check, or a client that gives up, is no TLS failure.
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    tracing::debug!(%error, "a TLS handshake failed");
                    observer.tls_failed();
                }
            }
            Err(_) => observer.deadline_passed("tls_handshake"),
        }
    }

    async fn http1<W: Transport>(self, wire: W) {
        let framing = Framing::new(MAX_BUFFER);
        let io = Guard { wire, progress: Arc::clone(&self.progress), framing };
        let mut builder = http1::Builder::new();
        // hyper's header timer stays off: `Progress` distinguishes the head's deadline from idle time. hyper also keeps
        // a request when the client closes its sending side: `drive` decides whether that client left.
        builder.max_buf_size(MAX_BUFFER).half_close(true).header_read_timeout(None);
        let mut connection = builder.serve_connection(TokioIo::new(io), self.requests());
        let end = self.drive(&mut connection).await;
        // This drops the requests in progress.
        let wire = connection.into_parts().io.into_inner().wire;
        if let Some(fault) = self.progress.fault() {
            self.shared.observer.malformed(fault);
        }
        self.close(wire, end).await;
    }

    async fn http2(self, stream: TlsStream<Socket>, slots: Arc<Semaphore>) {
        let Self { shared, progress, client, .. } = &self;
        let write_stall = shared.deadlines.write_stall;
        let observer = Arc::clone(&shared.observer);
        let streams = Streams::new(Arc::clone(progress), Arc::clone(client), observer, slots, write_stall);
        let requests = Requests { streams: Some(streams.clone()), ..self.requests() };
        let builder = http2::builder(streams.clone(), write_stall);
        let mut connection = Box::pin(builder.serve_connection(TokioIo::new(stream), requests));
        // On a graceful end, hyper sends GOAWAY itself.
        self.drive(&mut connection).await;
        drop(connection);
        streams.ended().await;
    }

    fn requests(&self) -> Requests<S> {
        Requests {
            streams: None,
            service: self.shared.service.clone(),
            progress: Arc::clone(&self.progress),
            client: Arc::clone(&self.client),
        }
    }

    /// Closes the connection so that the client sees how it ended.
    async fn close<W: Transport>(self, mut wire: W, end: CloseMode) {
        let Self { shared, write, progress, .. } = self;
        if let Some(answer) = &end.answer {
            poll_once(|cx| Pin::new(&mut wire).poll_write(cx, answer.as_bytes())).await;
        }
        if end.close_notify {
            poll_once(|cx| Pin::new(&mut wire).poll_shutdown(cx)).await;
        }
        let mut socket = wire.into_socket();
        if progress.is_open_ended() {
            // A normal close would look like the end of this body. Only a reset shows the client that the body was cut.
            let _ = write.as_ref().as_ref().set_zero_linger();
            drop(socket);
            if let Some(write) = Arc::into_inner(write) {
                write.forget();
            }
        } else if end.linger {
            // Dropping the writing half sends FIN.
            drop((write, socket.write));
            tokio::select! {
                () = linger(&mut socket.read) => {}
                () = shared.shutdown.stopped() => {}
            }
        }
    }
}

/// Polls once. Bytes that the socket does not accept at once are dropped.
async fn poll_once<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) {
    let mut poll = poll;
    poll_fn(|cx| {
        let _ = poll(cx);
        Poll::Ready(())
    })
    .await;
}

/// What happened on a connection.
enum ConnectionEvent {
    /// hyper finished the connection. Says whether without an error.
    Done(bool),
    /// The client closed its sending side.
    Closed,
    /// The connection is broken: nothing reaches the client any more.
    Broken,
    /// A deadline passed.
    Deadline(&'static str),
    /// The next input is no valid request head, and all earlier requests are answered.
    Malformed(FramingError),
    /// The server accepts no more requests, at least on this connection.
    Drain,
    /// The server stops.
    Stop,
}

/// How to close a connection.
#[derive(Default)]
struct CloseMode {
    /// A last answer, written without hyper.
    answer: Option<String>,
    /// Whether to close TLS with a `close_notify`, so that the client takes this end as complete.
    close_notify: bool,
    /// Whether to read for a moment what the client still sends.
    linger: bool,
}

impl CloseMode {
    /// Close without a last word.
    const CUT: Self = Self { answer: None, close_notify: false, linger: false };
    /// Close with this answer while the client may still send its request.
    const fn last(answer: String) -> Self {
        Self { answer: Some(answer), close_notify: true, linger: true }
    }

    /// Close an idle connection.
    const QUIET: Self = Self { close_notify: true, ..Self::CUT };
}

impl<S: Service> Connection<'_, S> {
    /// Runs the connection until it ends. Requests in progress end with the connection, so `client` learns the reason
    /// before this returns.
    async fn drive<H: HttpConnection>(&self, connection: &mut H) -> CloseMode {
        let Self { shared, write, progress, client } = self;
        let mut timer = pin!(sleep_until(Instant::now() + shared.deadlines.first_byte));
        let (mut half_closed, mut broken) = (pin!(socket::sending_side_closed(write)), pin!(connection_broken(write)));
        let mut watch = pin!(unread::watch(write, progress));
        // Whether the client closed its sending side.
        let mut sending_side_closed = false;
        let mut drain = pin!(shared.shutdown.draining());
        let mut stop = pin!(shared.shutdown.stopped());
        // Whether hyper was told to shut down gracefully.
        let mut shutdown_started = false;
        let mut was_idle = false;
        loop {
            let event = tokio::select! {
                biased;
                event = poll_fn(|cx| poll(connection, shutdown_started, progress, &shared.deadlines, timer.as_mut(), cx)) => event,
                () = &mut half_closed, if !sending_side_closed => ConnectionEvent::Closed,
                never = &mut watch, if !sending_side_closed && !H::MULTIPLEXED => match never {},
                () = &mut broken, if sending_side_closed && !progress.has_client_left() => ConnectionEvent::Broken,
                () = &mut drain, if !shutdown_started => ConnectionEvent::Drain,
                () = &mut stop => ConnectionEvent::Stop,
            };
            match event {
                // A connection that was idle when the drain began has no answer to lose and must not delay the
                // shutdown.
                ConnectionEvent::Done(in_order) => {
                    return CloseMode { answer: None, close_notify: in_order, linger: !was_idle };
                }
                // HTTP/2 has no half-closed connections.
                ConnectionEvent::Closed
                    if !H::MULTIPLEXED
                        && (progress.is_half_closed() || progress.closes_with_unread(unread::unread(write))) =>
                {
                    sending_side_closed = true;
                    enable_keepalive(write);
                }
                // Between two requests hyper sees the end itself. A request that is already in hyper's buffer is not
                // served.
                ConnectionEvent::Closed | ConnectionEvent::Broken => {
                    sending_side_closed = true;
                    progress.client_left();
                    if progress.is_busy() {
                        return CloseMode::CUT;
                    }
                }
                ConnectionEvent::Deadline(name) => {
                    shared.observer.deadline_passed(name);
                    if !H::MULTIPLEXED || shutdown_started || name != Progress::IDLE {
                        return self.close_mode_after_deadline(name);
                    }
                    // A request may be on its way: GOAWAY tells the client which requests are served.
                    shutdown_started = true;
                    progress.closing();
                    connection.graceful_shutdown();
                }
                ConnectionEvent::Malformed(fault) => {
                    return CloseMode::last(shared.observer.rejection(Rejection::Malformed(fault)));
                }
                ConnectionEvent::Drain => {
                    shutdown_started = true;
                    was_idle = progress.is_idle();
                    if H::MULTIPLEXED {
                        progress.closing();
                    }
                    // hyper would end at once although half a head has arrived. That request is served, and its answer
                    // ends the connection, as any answer does from now on.
                    if was_idle || progress.is_busy() {
                        connection.graceful_shutdown();
                    }
                }
                ConnectionEvent::Stop => {
                    client.stopped();
                    if progress.is_busy() {
                        shared.shutdown.record_cut();
                    }
                    return CloseMode::CUT;
                }
            }
        }
    }

    /// A deadline passed.
    fn close_mode_after_deadline(&self, name: &'static str) -> CloseMode {
        match name {
            Progress::HEAD => {
                CloseMode { answer: Some(self.shared.observer.rejection(Rejection::TimedOut)), ..CloseMode::QUIET }
            }
            Progress::WRITE_STALL => {
                self.client.stalled();
                // A reset frees the kernel's send buffer, which the client does not read.
                let _ = self.write.as_ref().as_ref().set_zero_linger();
                CloseMode::CUT
            }
            _ => CloseMode::QUIET,
        }
    }
}

/// Polls hyper, then checks the current deadline. The timer is moved only when it fires or when a deadline comes
/// nearer, so a busy connection hardly touches the timer.
fn poll<H: HttpConnection>(
    connection: &mut H,
    shutdown_started: bool,
    progress: &Progress,
    deadlines: &Deadlines,
    mut timer: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<ConnectionEvent> {
    if let Poll::Ready(in_order) = connection.poll(cx) {
        return Poll::Ready(ConnectionEvent::Done(in_order));
    }
    // Over HTTP/1.1 the header `connection: close` says this.
    if H::MULTIPLEXED && !shutdown_started && progress.is_leaving() && progress.is_busy() {
        return Poll::Ready(ConnectionEvent::Drain);
    }
    if let Some(fault) = progress.fault_due() {
        return Poll::Ready(ConnectionEvent::Malformed(fault));
    }
    let Some((due, name)) = progress.due(deadlines) else {
        return Poll::Pending;
    };
    if due < timer.deadline() {
        timer.as_mut().reset(due);
    }
    loop {
        ready!(timer.as_mut().poll(cx));
        if due <= Instant::now() {
            return Poll::Ready(ConnectionEvent::Deadline(name));
        }
        timer.as_mut().reset(due);
    }
}
