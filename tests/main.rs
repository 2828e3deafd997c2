//! Whole runs of the program: conversions, bad input, full-size plans, real llama.cpp.

mod support;

mod calibrate;
mod cli;
mod convert;
mod evaluate;
mod families;
mod feedback;
mod forward;
mod importances;
mod llama;
mod malformed;
mod r1;
