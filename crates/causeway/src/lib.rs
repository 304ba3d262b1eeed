//! The command line: a whole cluster on one machine, small clients, a load tool.
