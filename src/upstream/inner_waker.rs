//! A waker for futures that one task polls together.
//!
//! hyper's connection and the body of its answer wake each other: each frame passes between them through a channel. Both belong to one
//! task, which polls both. With the task's own waker, each frame would schedule the task once more for nothing. That costs 5,000
//! instructions for an event that arrives alone, of 36,000 in all.
//!
//! hyper's server polls the body of an answer two more times after each frame. A poll without a wake since the last one returns at once.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// The next poll polls the futures.
const READY: u8 = 0;
/// A poll is going on.
const POLLING: u8 = 1;
/// A wake came during the poll.
const WOKEN: u8 = 2;
/// The last poll returned nothing, and no wake came since.
const WAITING: u8 = 3;

/// Further polls for wakes during a poll. After more of them the thread first serves other tasks.
const REPEATS: usize = 3;

/// The waker of the futures inside a task.
#[derive(Debug)]
pub(super) struct InnerWaker {
    inner: Arc<Inner>,
    waker: Waker,
}

#[derive(Debug)]
struct Inner {
    /// One of the constants above.
    state: AtomicU8,
    task: Mutex<Waker>,
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let after = |state| if state == POLLING || state == WOKEN { WOKEN } else { READY };
        let before = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| Some(after(state)));
        if before.is_ok_and(|before| after(before) == READY) {
            self.task.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
        }
    }
}

impl Default for InnerWaker {
    fn default() -> Self {
        let inner = Arc::new(Inner { state: AtomicU8::new(READY), task: Mutex::new(Waker::noop().clone()) });
        Self { waker: Waker::from(Arc::clone(&inner)), inner }
    }
}

impl InnerWaker {
    /// Forgets earlier polls: the next poll polls the futures. For futures that were polled with another waker meanwhile.
    pub(super) fn reset(&self) {
        self.inner.state.store(READY, Ordering::Release);
    }

    /// Polls with this waker, and polls again for a wake that came during the poll. Later wakes wake the task of `cx`. Without a wake
    /// since the last poll, which returned nothing, this poll returns nothing either.
    ///
    /// Everything that `poll` waits for must have the waker that `poll` gets.
    pub(super) fn poll<T>(&self, cx: &Context<'_>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        {
            let mut task = self.inner.task.lock().unwrap_or_else(PoisonError::into_inner);
            if !task.will_wake(cx.waker()) {
                task.clone_from(cx.waker());
            }
        }
        // A wake after this line wakes the task of `cx`, which is known by now.
        if self.inner.state.load(Ordering::Acquire) == WAITING {
            return Poll::Pending;
        }
        for _ in 0..=REPEATS {
            self.inner.state.store(POLLING, Ordering::Release);
            let polled = poll(&mut Context::from_waker(&self.waker));
            // The caller of a future that is ready polls again in any case.
            let next = if polled.is_ready() { READY } else { WAITING };
            if self.inner.state.compare_exchange(POLLING, next, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return polled;
            }
            self.inner.state.store(READY, Ordering::Release);
            if polled.is_ready() {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Polls with wakes during the first `wakes` polls. Returns the number of polls and of wakes of the task, and the last waker.
    fn polls(wakes: usize) -> (usize, usize, Waker, Arc<Counted>) {
        let (task, inner) = (Arc::<Counted>::default(), InnerWaker::default());
        let (waker, mut count, mut last) = (Waker::from(Arc::clone(&task)), 0, Waker::noop().clone());
        let polled: Poll<()> = inner.poll(&Context::from_waker(&waker), |cx| {
            count += 1;
            last = cx.waker().clone();
            if count <= wakes {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        });
        assert!(polled.is_pending());
        (count, task.0.load(Ordering::Relaxed), last, task)
    }

    #[test]
    fn a_wake_during_a_poll_repeats_the_poll_and_a_later_wake_wakes_the_task() {
        let (count, woken, last, task) = polls(0);
        assert_eq!((count, woken), (1, 0));
        last.wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        let (count, woken, ..) = polls(2);
        assert_eq!((count, woken), (3, 0));
        // Endless wakes do not keep the thread.
        let (count, woken, ..) = polls(usize::MAX);
        assert_eq!((count, woken), (REPEATS + 1, 1));
    }

    #[test]
    fn a_poll_without_a_wake_since_the_last_one_does_not_poll_the_futures() {
        let (task, inner) = (Arc::<Counted>::default(), InnerWaker::default());
        let waker = Waker::from(Arc::clone(&task));
        let (mut count, mut last) = (0, Waker::noop().clone());
        let mut poll = |expected: usize| {
            let polled: Poll<()> = inner.poll(&Context::from_waker(&waker), |cx| {
                count += 1;
                last = cx.waker().clone();
                Poll::Pending
            });
            assert!(polled.is_pending());
            assert_eq!(count, expected);
            last.clone()
        };
        let last = poll(1);
        poll(1);
        last.wake_by_ref();
        poll(2);
        poll(2);
        inner.reset();
        poll(3);
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_wake_goes_to_the_task_that_polled_last() {
        let (first, second, inner) = (Arc::<Counted>::default(), Arc::<Counted>::default(), InnerWaker::default());
        let mut last = Waker::noop().clone();
        for task in [&first, &second] {
            let waker = Waker::from(Arc::clone(task));
            let polled: Poll<()> = inner.poll(&Context::from_waker(&waker), |cx| {
                last = cx.waker().clone();
                Poll::Pending
            });
            assert!(polled.is_pending());
        }
        last.wake();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn a_future_that_is_ready_is_not_polled_again() {
        let inner = InnerWaker::default();
        let mut count = 0;
        let polled = inner.poll(&Context::from_waker(Waker::noop()), |cx| {
            count += 1;
            cx.waker().wake_by_ref();
            Poll::Ready(())
        });
        assert!(polled.is_ready());
        assert_eq!(count, 1);
    }
}
