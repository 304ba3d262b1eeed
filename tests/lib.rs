//! Tests of the whole product. The targets beside this file hold them.
