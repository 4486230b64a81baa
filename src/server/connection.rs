//! One connection of a client: hyper's HTTP/1.1 on it, and around hyper what it lacks. It has one timer for the head
//! and for idling, and none for a client that does not read. It cannot tell a client that left from one that closed its
//! sending side with its request and waits for the answer.

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
    framing::{Fault, Framing},
    guard::Guard,
    heartbeat::Heartbeat,
    http_version::Http,
    http2,
    limits::Limits,
    observer::{Client, Observer, Open, Rejection},
    progress::Progress,
    requests::Requests,
    service::Service,
    shutdown::Shutdown,
    socket::{Socket, Wire, failed, left, linger, probe},
    streams::Streams,
    tls, unread,
};

/// A request's head may be this long (`Framing` is asked first), and hyper's buffers grow no further (its own default is 417,792 bytes).
/// OpenAI documents 64 KiB for all headers together.
pub(super) const MAX_BUFFER: usize = 64 * 1024;

/// What every connection of a listener shares.
#[derive(Clone)]
pub struct Shared<S> {
    /// What answers requests.
    pub service: S,
    /// The deadlines of the next connection.
    pub limits: Limits,
    /// Tells when to end.
    pub shutdown: Shutdown,
    /// Is told what happens.
    pub observer: Arc<dyn Observer>,
    /// None speaks plain http.
    pub tls: Option<Secure>,
    /// Beats while the listener runs.
    pub heartbeat: Arc<Heartbeat>,
}

/// What connections with TLS share.
#[derive(Clone)]
pub struct Secure {
    /// Shakes hands.
    pub acceptor: TlsAcceptor,
    /// Over HTTP/2, a request beside others on its connection takes one too.
    pub slots: Arc<Semaphore>,
}

/// Serves a connection to its end.
pub(super) async fn serve<S: Service>(stream: TcpStream, peer: IpAddr, shared: Shared<S>) {
    // An event must go out when it comes: Nagle's algorithm would hold the tail back for 40 ms.
    let _ = stream.set_nodelay(true);
    let client = shared.observer.opened(peer);
    let _open = Open(&*shared.observer);
    let (read, write) = stream.into_split();
    let write = Arc::new(write);
    let progress =
        Arc::new(Progress::new(shared.shutdown.leaving(), Arc::clone(&shared.heartbeat), shared.tls.is_some()));
    let socket = Socket { read, write: Arc::clone(&write), progress: Arc::clone(&progress) };
    let connection = Connection { shared: &shared, write, progress, client };
    match &shared.tls {
        None => connection.http1(socket).await,
        // Boxed, as it is larger: plain connections shall not pay for it.
        Some(secure) => Box::pin(connection.tls(socket, secure)).await,
    }
}

/// A connection beside what is spoken on it.
struct Connection<'a, S> {
    shared: &'a Shared<S>,
    write: Arc<OwnedWriteHalf>,
    progress: Arc<Progress>,
    client: Arc<dyn Client>,
}

impl<S: Service> Connection<'_, S> {
    /// Shakes hands, and goes on with what the client chose.
    async fn tls(self, socket: Socket, secure: &Secure) {
        let shutdown = &self.shared.shutdown;
        let observer = &self.shared.observer;
        let accepted = tokio::select! {
            biased;
            accepted = timeout(self.shared.limits.first_byte, tls::accept(&secure.acceptor, socket)) => accepted,
            // No request can be lost.
            () = shutdown.draining() => return,
        };
        match accepted {
            Ok(Ok(Err(socket))) => {
                observer.tls_failed();
                self.close(socket, End::last(observer.rejection(Rejection::PlainHttp))).await;
            }
            Ok(Ok(Ok((stream, is_h2)))) => {
                self.progress.greeted(is_h2);
                if is_h2 {
                    self.http2(stream, Arc::clone(&secure.slots)).await;
                } else {
                    self.http1(stream).await;
                }
            }
            // Who only looks whether somebody listens, or gives up, is no failure of TLS.
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    tracing::debug!(%error, "a TLS handshake failed");
                    observer.tls_failed();
                }
            }
            Err(_) => observer.cut("tls_handshake"),
        }
    }

    async fn http1<W: Wire>(self, wire: W) {
        let framing = Framing::new(MAX_BUFFER);
        let io = Guard { wire, progress: Arc::clone(&self.progress), framing };
        let mut builder = http1::Builder::new();
        // Its header timer stays off: ours tells heads from idling. Nor does it end a request because the client closed its
        // sending side: `drive` decides whether that client left.
        builder.max_buf_size(MAX_BUFFER).half_close(true).header_read_timeout(None);
        let mut connection = builder.serve_connection(TokioIo::new(io), self.requests());
        let end = self.drive(&mut connection).await;
        // What is under way ends here.
        let wire = connection.into_parts().io.into_inner().wire;
        if let Some(fault) = self.progress.fault() {
            self.shared.observer.malformed(fault);
        }
        self.close(wire, end).await;
    }

    async fn http2(self, stream: TlsStream<Socket>, slots: Arc<Semaphore>) {
        let Self { shared, progress, client, .. } = &self;
        let write_stall = shared.limits.write_stall;
        let observer = Arc::clone(&shared.observer);
        let streams = Streams::new(Arc::clone(progress), Arc::clone(client), observer, slots, write_stall);
        let requests = Requests { streams: Some(streams.clone()), ..self.requests() };
        let builder = http2::builder(streams.clone(), write_stall);
        let mut connection = Box::pin(builder.serve_connection(TokioIo::new(stream), requests));
        // hyper says farewell itself, where it ends in order.
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

    /// Closes the connection so that it looks to the client as it ended.
    async fn close<W: Wire>(self, mut wire: W, end: End) {
        let Self { shared, write, progress, .. } = self;
        if let Some(answer) = &end.answer {
            once(|cx| Pin::new(&mut wire).poll_write(cx, answer.as_bytes())).await;
        }
        if end.farewell {
            once(|cx| Pin::new(&mut wire).poll_shutdown(cx)).await;
        }
        let mut socket = wire.into_socket();
        if progress.is_open_ended() {
            // Closing in order would be the end of this body: only a reset shows that it was cut.
            let _ = write.as_ref().as_ref().set_zero_linger();
            drop(socket);
            if let Some(write) = Arc::into_inner(write) {
                write.forget();
            }
        } else if end.linger {
            // Ends the writing side.
            drop((write, socket.write));
            tokio::select! {
                () = linger(&mut socket.read) => {}
                () = shared.shutdown.stopped() => {}
            }
        }
    }
}

/// Polls once: what does not go out at once is not waited for.
async fn once<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) {
    let mut poll = poll;
    poll_fn(|cx| {
        let _ = poll(cx);
        Poll::Ready(())
    })
    .await;
}

/// Why a connection is over.
enum Event {
    /// hyper is done with it: whether in order.
    Done(bool),
    /// The client closed its sending side.
    Closed,
    /// The connection is broken: what is written goes nowhere.
    Broken,
    /// A deadline ran out.
    Deadline(&'static str),
    /// What should be the head of a request is none, and everything before it is answered.
    Malformed(Fault),
    /// Tidegate stops taking requests, at least on this connection.
    Drain,
    /// Tidegate stops.
    Stop,
}

/// How a connection is closed.
#[derive(Default)]
struct End {
    /// What is still to be said, past hyper.
    answer: Option<String>,
    /// Whether the client may take this end for the end of what it got.
    farewell: bool,
    /// Whether it may still be sending.
    linger: bool,
}

impl End {
    /// Nothing is told.
    const CUT: Self = Self { answer: None, farewell: false, linger: false };
    /// With this answer, of which the client may still be sending the request.
    const fn last(answer: String) -> Self {
        Self { answer: Some(answer), farewell: true, linger: true }
    }

    /// Nothing was under way.
    const QUIET: Self = Self { farewell: true, ..Self::CUT };
}

impl<S: Service> Connection<'_, S> {
    /// Runs the connection until it is over. What is under way ends with the connection, so the reason is told to
    /// `client` before this returns.
    async fn drive<H: Http>(&self, connection: &mut H) -> End {
        let Self { shared, write, progress, client } = self;
        let mut timer = pin!(sleep_until(Instant::now() + shared.limits.first_byte));
        let (mut left, mut failed) = (pin!(left(write)), pin!(failed(write)));
        let mut watch = pin!(unread::watch(write, progress));
        // Whether the client closed its sending side.
        let mut closed = false;
        let mut drain = pin!(shared.shutdown.draining());
        let mut stop = pin!(shared.shutdown.stopped());
        // Whether hyper knows that the connection shall end.
        let mut told = false;
        let mut at_rest = false;
        loop {
            let event = tokio::select! {
                biased;
                event = poll_fn(|cx| poll(connection, told, progress, &shared.limits, timer.as_mut(), cx)) => event,
                () = &mut left, if !closed => Event::Closed,
                never = &mut watch, if !closed && !H::MULTIPLEXED => match never {},
                () = &mut failed, if closed && !progress.has_left() => Event::Broken,
                () = &mut drain, if !told => Event::Drain,
                () = &mut stop => Event::Stop,
            };
            match event {
                // Who was at rest when the drain began has no answer that could be lost, and shall not hold the end up.
                Event::Done(in_order) => return End { answer: None, farewell: in_order, linger: !at_rest },
                // HTTP/2 has no half-closed connections.
                Event::Closed
                    if !H::MULTIPLEXED
                        && (progress.is_half_closed() || progress.closes_with_unread(unread::unread(write))) =>
                {
                    closed = true;
                    probe(write);
                }
                // Between two requests hyper sees the end by itself, and what is already in its buffer gets no service.
                Event::Closed | Event::Broken => {
                    closed = true;
                    progress.leave();
                    if progress.is_busy() {
                        return End::CUT;
                    }
                }
                Event::Deadline(name) => {
                    shared.observer.cut(name);
                    if !H::MULTIPLEXED || told || name != Progress::IDLE {
                        return self.overdue(name);
                    }
                    // A request may be on its way: the client is told up to which one its requests are served.
                    told = true;
                    progress.closing();
                    connection.graceful_shutdown();
                }
                Event::Malformed(fault) => {
                    return End::last(shared.observer.rejection(Rejection::Malformed(fault)));
                }
                Event::Drain => {
                    told = true;
                    at_rest = progress.is_at_rest();
                    if H::MULTIPLEXED {
                        progress.closing();
                    }
                    // hyper would end at once where a further head is half here: that request is served, and its answer,
                    // as any from now on, ends the connection.
                    if at_rest || progress.is_busy() {
                        connection.graceful_shutdown();
                    }
                }
                Event::Stop => {
                    client.stopped();
                    if progress.is_busy() {
                        shared.shutdown.cut();
                    }
                    return End::CUT;
                }
            }
        }
    }

    /// A deadline ran out.
    fn overdue(&self, name: &'static str) -> End {
        match name {
            Progress::HEAD => End { answer: Some(self.shared.observer.rejection(Rejection::TimedOut)), ..End::QUIET },
            Progress::WRITE_STALL => {
                self.client.stalled();
                // A reset: what the client does not read shall not stay in the kernel's buffers either.
                let _ = self.write.as_ref().as_ref().set_zero_linger();
                End::CUT
            }
            _ => End::QUIET,
        }
    }
}

/// Polls hyper, then the deadline that holds now. The timer is moved only when it fires or when a deadline comes
/// nearer, so that a busy connection hardly touches it.
fn poll<H: Http>(
    connection: &mut H,
    told: bool,
    progress: &Progress,
    limits: &Limits,
    mut timer: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<Event> {
    if let Poll::Ready(in_order) = connection.poll(cx) {
        return Poll::Ready(Event::Done(in_order));
    }
    // What an answer of HTTP/1.1 says in a header.
    if H::MULTIPLEXED && !told && progress.is_leaving() && progress.is_busy() {
        return Poll::Ready(Event::Drain);
    }
    if let Some(fault) = progress.fault_due() {
        return Poll::Ready(Event::Malformed(fault));
    }
    let Some((due, name)) = progress.due(limits) else {
        return Poll::Pending;
    };
    if due < timer.deadline() {
        timer.as_mut().reset(due);
    }
    loop {
        ready!(timer.as_mut().poll(cx));
        if due <= Instant::now() {
            return Poll::Ready(Event::Deadline(name));
        }
        timer.as_mut().reset(due);
    }
}
