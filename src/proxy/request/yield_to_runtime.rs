//! Lets other work of a worker run between the pieces of a large body.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Wake, Waker},
};

/// Resolves when the runtime has run the tasks that were ready, and has asked the system for new events.
///
/// `yield_now` alone resolves at the next poll of its task, whatever the reason. hyper wakes the task of a connection for each
/// piece that it reads. A fast body therefore kept other events waiting for 61 turns of the runtime, which is 4 MB. This
/// function waits for the wake-up of `yield_now` itself. The runtime gives that wake-up after it asked for events.
pub(in crate::proxy) async fn yield_to_runtime() {
    let turn = Arc::new(WokenFlag::default());
    let waker = Waker::from(Arc::clone(&turn));
    let mut yielding = pin!(tokio::task::yield_now());
    let mut began = false;
    poll_fn(|cx| {
        if turn.is_over.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        turn.waits_for(cx.waker());
        if !began {
            began = true;
            let _ = yielding.as_mut().poll(&mut std::task::Context::from_waker(&waker));
        }
        Poll::Pending
    })
    .await;
}

/// Records the wake-up by the runtime.
#[derive(Debug, Default)]
struct WokenFlag {
    is_over: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl WokenFlag {
    fn waits_for(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }
}

impl Wake for WokenFlag {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicU32, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn events_come_in_between_though_the_task_is_woken_all_the_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        let echo = tokio::spawn(async move {
            let mut byte = [0];
            other.read_exact(&mut byte).await.unwrap();
            other.write_all(&byte).await.unwrap();
        });
        one.write_all(b"x").await.unwrap();
        // Each turn takes a while, as pieces of a body do. The byte comes back within a few rounds of events.
        let busy = tokio::spawn(async move {
            let turns = AtomicU32::new(0);
            let mut busy = pin!(async {
                loop {
                    std::thread::sleep(Duration::from_millis(1));
                    yield_to_runtime().await;
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut byte = [0];
            let mut answer = pin!(one.read_exact(&mut byte));
            poll_fn(|cx| {
                let answered = answer.as_mut().poll(cx);
                if answered.is_pending() {
                    let _: Poll<()> = busy.as_mut().poll(cx);
                    // As hyper does.
                    cx.waker().wake_by_ref();
                }
                answered
            })
            .await
            .unwrap();
            turns.load(Ordering::Relaxed)
        });
        let turns = busy.await.unwrap();
        echo.await.unwrap();
        assert!(turns <= 5, "{turns} turns");
    }

    #[test]
    fn without_a_runtime_it_resolves_at_once() {
        let mut context = std::task::Context::from_waker(Waker::noop());
        let mut turn = pin!(yield_to_runtime());
        assert!(turn.as_mut().poll(&mut context).is_pending() && turn.as_mut().poll(&mut context).is_ready());
    }
}
