//! Panics of a simulated run: tokio catches those of tasks, so they are noticed where they happen.

use std::cell::RefCell;
use std::panic::{set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Those of the run of this thread; `None` if there is none.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Notes the panics of this thread as long as it lives.
#[derive(Debug)]
pub(super) struct Watch(());

/// Begins.
pub(super) fn watch() -> Watch {
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            let noted = PANICS.with_borrow_mut(|panics| match panics {
                Some(panics) => {
                    panics.push(panic.to_string());
                    true
                }
                None => false,
            });
            if !noted {
                before(panic);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
    Watch(())
}

impl Watch {
    /// The first panic, in words.
    pub(super) fn first(&self) -> Option<String> {
        PANICS.with_borrow(|panics| panics.as_ref()?.first().cloned())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        PANICS.set(None);
    }
}
