//! Literal, slow, step-numbered models of the specification's algorithms, for tests and fuzzing.
