//! Micro benchmarks. The targets beside this file hold them.
