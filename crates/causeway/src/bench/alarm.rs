//! An alarm that ends the waiting of an event loop to the microsecond; the loop's own timeout
//! knows only whole milliseconds. Elsewhere than on Linux there is none, and a fixed rate comes in
//! steps of a millisecond.

use std::time::Duration;

use mio::{Poll, Token};

#[cfg(target_os = "linux")]
mod timer {
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::time::Duration;

    use anyhow::Context;
    use mio::unix::SourceFd;
    use mio::{Interest, Poll, Token};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    /// A timer of the kernel.
    #[derive(Debug)]
    pub(in crate::bench) struct Timer(OwnedFd);

    impl Timer {
        pub(super) fn new(poll: &Poll, token: Token) -> anyhow::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags);
            let timer = timer.context("cannot make a timer")?;
            // Every expiry is an edge of its own, so the timer is never read.
            poll.registry()
                .register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)
                .context("cannot register a timer")?;
            Ok(Self(timer))
        }

        pub(super) fn set(&self, after: Duration) -> anyhow::Result<()> {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let after = after.max(Duration::from_nanos(1)); // zero would stop it
            let value =
                Timespec { tv_sec: after.as_secs() as i64, tv_nsec: after.subsec_nanos().into() };
            let once = Itimerspec { it_interval: zero, it_value: value };
            let flags = TimerfdTimerFlags::empty();
            timerfd_settime(&self.0, flags, &once).context("cannot set a timer")?;
            Ok(())
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Alarm {
    #[cfg(target_os = "linux")]
    timer: timer::Timer,
}

impl Alarm {
    /// An alarm that shows as an event with `token`.
    #[cfg(target_os = "linux")]
    pub(super) fn new(poll: &Poll, token: Token) -> anyhow::Result<Self> {
        Ok(Self { timer: timer::Timer::new(poll, token)? })
    }

    /// Sets it off once, `after` from now; an earlier setting is void.
    #[cfg(target_os = "linux")]
    pub(super) fn set(&self, after: Duration) -> anyhow::Result<()> {
        self.timer.set(after)
    }

    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unnecessary_wraps, reason = "the shape it has on Linux")]
    pub(super) fn new(_: &Poll, _: Token) -> anyhow::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "the shape it has on Linux")]
    pub(super) fn set(&self, _: Duration) -> anyhow::Result<()> {
        Ok(())
    }
}
