//! Routes and messages between proxies and intermediates, over gRPC.
