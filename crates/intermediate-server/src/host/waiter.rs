//! How the store's thread waits: for input, a deadline, or the end.
//!
//! Owns the wake-up of one thread, which may be no thread of a runtime: a commit blocks it. Does not
//! look at what comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use tokio::sync::mpsc::Receiver;
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

/// The wake-ups of the thread that made it.
#[derive(Debug)]
pub(super) struct Waiter {
    waker: Waker,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Waiter {
    /// For the current thread.
    pub(super) fn new(stop: CancellationToken, gone: CancellationToken) -> Self {
        Self {
            waker: Waker::from(Arc::new(Unpark(std::thread::current()))),
            stop: Box::pin(stop.cancelled_owned()),
            gone: Box::pin(gone.cancelled_owned()),
        }
    }

    /// Waits. What has come is given before the end in order, so that it is all handled; a queue whose
    /// senders are gone gives nothing.
    pub(super) fn wait<T>(
        &mut self,
        inputs: &mut Receiver<T>,
        deadline: Option<Instant>,
    ) -> Woken<T> {
        loop {
            let mut context = Context::from_waker(&self.waker);
            if self.gone.as_mut().poll(&mut context).is_ready() {
                return Woken::Gone;
            }
            if let Poll::Ready(Some(input)) = inputs.poll_recv(&mut context) {
                return Woken::Input(input);
            }
            if self.stop.as_mut().poll(&mut context).is_ready() {
                return Woken::Stop;
            }
            match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                None => std::thread::park(),
                Some(left) if left.is_zero() => return Woken::Deadline,
                Some(left) => std::thread::park_timeout(left),
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_has_come_is_given_before_the_end() {
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let mut waiter = Waiter::new(stop.clone(), gone.clone());
        let (sender, mut inputs) = tokio::sync::mpsc::channel(4);
        sender.try_send(1).unwrap();
        stop.cancel();
        assert!(matches!(waiter.wait(&mut inputs, None), Woken::Input(1)));
        assert!(matches!(waiter.wait(&mut inputs, None), Woken::Stop));
        gone.cancel();
        sender.try_send(2).unwrap();
        assert!(matches!(waiter.wait(&mut inputs, None), Woken::Gone));
    }

    #[test]
    fn a_wait_ends_at_its_deadline_or_with_what_another_thread_sends() {
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let mut waiter = Waiter::new(stop, gone);
        let (sender, mut inputs) = tokio::sync::mpsc::channel(4);
        assert!(matches!(waiter.wait(&mut inputs, Some(Instant::now())), Woken::Deadline));
        let other = std::thread::spawn(move || sender.blocking_send(3).unwrap());
        let deadline = Instant::now() + Duration::from_secs(30);
        assert!(matches!(waiter.wait(&mut inputs, Some(deadline)), Woken::Input(3)));
        other.join().unwrap();
    }
}
