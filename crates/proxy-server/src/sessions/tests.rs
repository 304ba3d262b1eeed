//! Who gets a client identifier.

use std::pin::pin;
use std::task::{Context, Wake, Waker};

use super::*;
use crate::mailbox::WhenFull;

fn sessions() -> Arc<Sessions> {
    let limits = QueueLimits { messages: 10, bytes: 1 << 20, when_full: WhenFull::Disconnect };
    Arc::new(Sessions::new(limits))
}

fn id(text: &str) -> ClientId {
    ClientId::new(text).expect("an identifier")
}

type Waiting = tokio::task::JoinHandle<Result<Arc<SessionHandle>, OpenError>>;

fn waiter(sessions: &Arc<Sessions>) -> Waiting {
    let sessions = Arc::clone(sessions);
    tokio::spawn(async move { sessions.open(&id("a")).await })
}

#[tokio::test]
async fn of_several_connections_that_wait_for_an_identifier_the_last_one_gets_it() {
    let sessions = sessions();
    let first = sessions.open(&id("a")).await.expect("nobody has it");
    let older = waiter(&sessions);
    tokio::task::yield_now().await;
    let newer = waiter(&sessions);
    let older = older.await.expect("no panic");
    assert_eq!(older.expect_err("it is not the last"), OpenError::Superseded);
    sessions.remove(&first);
    newer.await.expect("no panic").expect("it is the last");
    assert_eq!(sessions.len(), 1);
}

#[tokio::test]
async fn a_connection_that_waits_does_not_end_a_later_one() {
    let sessions = sessions();
    sessions.open(&id("a")).await.expect("nobody has it");
    let older = waiter(&sessions);
    tokio::task::yield_now().await;
    // The older one is not told before the later one has the identifier.
    let (_, ended) = sessions.slots.remove(&id("a")).expect("it is there");
    let _later = sessions.open(&id("a")).await.expect("nobody has it");
    ended.tell_change();
    let older = older.await.expect("no panic");
    assert_eq!(older.expect_err("a later one is there"), OpenError::Superseded);
    assert_eq!(sessions.len(), 1);
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_connection_that_waits_is_woken_by_the_end_of_the_one_it_waits_for_alone() {
    let sessions = sessions();
    let [a, b] = ["a", "b"].map(id);
    let other = sessions.open(&b).await.expect("nobody has it");
    let older = sessions.open(&a).await.expect("nobody has it");
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut newer = pin!(sessions.open(&a));
    assert!(newer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    sessions.remove(&other);
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    sessions.remove(&older);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    newer.await.expect("nobody has it any more");
}

#[test]
fn an_identifier_that_changes_hands_too_often_has_to_wait_each_time() {
    let (sessions, start) = (sessions(), Instant::now());
    let takeovers = |after: Duration, number: u32| -> Vec<Duration> {
        (0..number).map(|_| sessions.pause(&id("a"), start + after)).collect()
    };
    assert_eq!(takeovers(Duration::ZERO, TAKEOVERS), [Duration::ZERO; TAKEOVERS as usize]);
    assert_eq!(takeovers(CONTEST / 2, 3), [CONTEST_PAUSE; 3]);
    assert_eq!(sessions.pause(&id("b"), start + CONTEST / 2), Duration::ZERO);
    assert_eq!(takeovers(CONTEST, 1), [Duration::ZERO]);
    assert_eq!(sessions.contested(), 3);
}

#[test]
fn however_many_identifiers_change_hands_the_memory_is_bounded() {
    let (sessions, now) = (sessions(), Instant::now());
    for number in 0..3 * CONTESTS {
        assert_eq!(sessions.pause(&id(&number.to_string()), now), Duration::ZERO);
    }
    assert!(sessions.contests.lock().len() <= CONTESTS);
}
