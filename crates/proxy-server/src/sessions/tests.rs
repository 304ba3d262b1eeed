//! Who gets a client identifier, and how many sessions there may be.

use super::*;
use crate::mailbox::WhenFull;

fn sessions(maximum: usize) -> Arc<Sessions> {
    let limits = QueueLimits { messages: 10, bytes: 1 << 20, when_full: WhenFull::Disconnect };
    Arc::new(Sessions::new(limits, maximum))
}

fn id(text: &str) -> ClientId {
    ClientId::new(text).expect("an identifier")
}

fn waiter(sessions: &Arc<Sessions>) -> tokio::task::JoinHandle<Result<OpenedSession, OpenError>> {
    let sessions = Arc::clone(sessions);
    tokio::spawn(async move { sessions.open(&id("a"), Start::Clean).await })
}

fn park(sessions: &Sessions, handle: Arc<SessionHandle>) {
    let session = Session::default();
    sessions.park(ParkedSession { handle, session, will: None, _timer: None });
}

#[tokio::test]
async fn of_several_connections_that_wait_for_an_identifier_the_last_one_gets_it() {
    let sessions = sessions(10);
    let first = sessions.open(&id("a"), Start::Clean).await.expect("nobody has it");
    let older = waiter(&sessions);
    tokio::task::yield_now().await;
    let newer = waiter(&sessions);
    let older = older.await.expect("no panic");
    assert_eq!(older.expect_err("it is not the last"), OpenError::Superseded);
    sessions.remove(&first.handle);
    newer.await.expect("no panic").expect("it is the last");
    assert_eq!(sessions.len(), 1);
}

#[tokio::test]
async fn a_connection_that_waits_does_not_end_a_later_one() {
    let sessions = sessions(10);
    let first = sessions.open(&id("a"), Start::Clean).await.expect("nobody has it");
    let older = waiter(&sessions);
    tokio::task::yield_now().await;
    // The older one is not told before the later one has the identifier.
    sessions.slots.remove(&id("a")).expect("it is there");
    sessions.count.store(0, Ordering::Relaxed);
    let later = sessions.open(&id("a"), Start::Clean).await.expect("nobody has it");
    sessions.remove(&first.handle);
    let older = older.await.expect("no panic");
    assert_eq!(older.expect_err("a later one is there"), OpenError::Superseded);
    assert!(later.handle.mailbox.is_attached());
    assert_eq!(sessions.len(), 1);
}

#[tokio::test]
async fn beyond_the_limit_no_new_session_is_opened() {
    let sessions = sessions(2);
    let first = sessions.open(&id("a"), Start::Resume).await.expect("there is room");
    sessions.open(&id("b"), Start::Clean).await.expect("there is room");
    park(&sessions, Arc::clone(&first.handle));
    let refused = sessions.open(&id("c"), Start::Clean).await;
    assert_eq!(refused.expect_err("two are there"), OpenError::Full);
    let again = sessions.open(&id("a"), Start::Resume).await.expect("it is there already");
    assert!(again.resumed.is_some());
    park(&sessions, again.handle);
    let anew = sessions.open(&id("a"), Start::Clean).await.expect("in place of the old one");
    assert!(anew.ended.is_some());
    assert_eq!(sessions.len(), 2);
    sessions.remove(&anew.handle);
    sessions.open(&id("c"), Start::Clean).await.expect("one has gone");
}

#[tokio::test]
async fn a_session_that_expires_makes_room_for_another() {
    let sessions = sessions(1);
    let first = sessions.open(&id("a"), Start::Resume).await.expect("there is room");
    park(&sessions, Arc::clone(&first.handle));
    assert!(sessions.expire(&first.handle).is_some());
    assert!(sessions.expire(&first.handle).is_none());
    assert_eq!(sessions.len(), 0);
    sessions.open(&id("b"), Start::Clean).await.expect("one has gone");
}
