//! The relay between proxies: routes and messages.
