//! How the store waits: for input, a deadline, or the end.
//!
//! Owns the wake-up of a thread of its own, which is no thread of a runtime, because a commit blocks it: a future is
//! driven there by parking. The same future runs as a task of a runtime, by the runtime's clock. Does not look at what
//! comes.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use cluster_rpc::machine::now;
use parking_lot::Mutex;
use tokio::sync::mpsc::Receiver;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What ended a wait.
#[derive(Debug)]
pub(super) enum Woken<T> {
    /// Something has come.
    Input(T),
    /// It is time.
    Deadline,
    /// The end, in order.
    Stop,
    /// The process that this was a part of is gone: nothing is to be done any more.
    Gone,
}

/// What wakes at a deadline.
#[derive(Debug)]
pub(super) enum Alarm {
    /// [`block_on`], on the thread of this.
    Thread(Arc<Parking>),
    /// The current runtime.
    Runtime(Pin<Box<Sleep>>),
}

impl Alarm {
    /// For a task of the current runtime.
    pub(super) fn of_runtime() -> Self {
        Self::Runtime(Box::pin(tokio::time::sleep_until(now().into())))
    }

    fn poll(&mut self, at: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        match self {
            Self::Thread(parking) => {
                if now() >= at {
                    return Poll::Ready(());
                }
                *parking.until.lock() = Some(at);
                Poll::Pending
            }
            Self::Runtime(sleep) => {
                sleep.as_mut().reset(at.into());
                sleep.as_mut().poll(context)
            }
        }
    }
}

/// A thread that waits by parking.
#[derive(Debug)]
pub(super) struct Parking {
    thread: Thread,
    /// When it is to look again by itself.
    until: Mutex<Option<Instant>>,
}

impl Parking {
    /// For the current thread.
    pub(super) fn of_thread() -> Arc<Self> {
        Arc::new(Self { thread: std::thread::current(), until: Mutex::new(None) })
    }
}

impl Wake for Parking {
    fn wake(self: Arc<Self>) {
        self.thread.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.thread.unpark();
    }
}

/// Drives a future to its end on the thread of `parking`, which is this one.
pub(super) fn block_on<F: Future>(parking: Arc<Parking>, future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::clone(&parking));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let until = parking.until.lock().take();
        match until {
            None => std::thread::park(),
            Some(at) => std::thread::park_timeout(at.saturating_duration_since(now())),
        }
    }
}

/// The waits of the store.
#[derive(Debug)]
pub(super) struct Waiter {
    alarm: Alarm,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Waiter {
    pub(super) fn new(alarm: Alarm, stop: CancellationToken, gone: CancellationToken) -> Self {
        let (stop, gone) = (Box::pin(stop.cancelled_owned()), Box::pin(gone.cancelled_owned()));
        Self { alarm, stop, gone }
    }

    /// Waits. What has come is given before the end in order, so that it is all handled; a queue whose
    /// senders are gone gives nothing.
    pub(super) async fn wait<T>(
        &mut self,
        inputs: &mut Receiver<T>,
        deadline: Option<Instant>,
    ) -> Woken<T> {
        poll_fn(|context| {
            if self.gone.as_mut().poll(context).is_ready() {
                return Poll::Ready(Woken::Gone);
            }
            if let Poll::Ready(Some(input)) = inputs.poll_recv(context) {
                return Poll::Ready(Woken::Input(input));
            }
            if self.stop.as_mut().poll(context).is_ready() {
                return Poll::Ready(Woken::Stop);
            }
            self.alarm.poll(deadline, context).map(|()| Woken::Deadline)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_has_come_is_given_before_the_end() {
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let mut waiter = Waiter::new(Alarm::of_runtime(), stop.clone(), gone.clone());
        let (sender, mut inputs) = tokio::sync::mpsc::channel(4);
        sender.try_send(1).unwrap();
        stop.cancel();
        assert!(matches!(waiter.wait(&mut inputs, None).await, Woken::Input(1)));
        assert!(matches!(waiter.wait(&mut inputs, None).await, Woken::Stop));
        gone.cancel();
        sender.try_send(2).unwrap();
        assert!(matches!(waiter.wait(&mut inputs, None).await, Woken::Gone));
    }

    #[test]
    fn a_wait_of_a_thread_ends_at_its_deadline_or_with_what_another_sends() {
        let parking = Parking::of_thread();
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let mut waiter = Waiter::new(Alarm::Thread(Arc::clone(&parking)), stop, gone);
        let (sender, mut inputs) = tokio::sync::mpsc::channel(4);
        block_on(parking, async {
            for wait in [Duration::ZERO, Duration::from_millis(5)] {
                let woken = waiter.wait(&mut inputs, Some(now() + wait)).await;
                assert!(matches!(woken, Woken::Deadline));
            }
            let other = std::thread::spawn(move || sender.blocking_send(3).unwrap());
            let deadline = now() + Duration::from_secs(30);
            assert!(matches!(waiter.wait(&mut inputs, Some(deadline)).await, Woken::Input(3)));
            other.join().unwrap();
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_of_a_task_ends_by_the_clock_of_its_runtime() {
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let mut waiter = Waiter::new(Alarm::of_runtime(), stop, gone);
        let (_sender, mut inputs) = tokio::sync::mpsc::channel::<()>(4);
        let start = now();
        for hours in 1..=3 {
            let at = start + Duration::from_secs(hours * 3600);
            assert!(matches!(waiter.wait(&mut inputs, Some(at)).await, Woken::Deadline));
            assert_eq!(now(), at);
        }
    }
}
