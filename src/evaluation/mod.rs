//! Statistics on similarities: plain numbers in, plain numbers out.

mod random;
mod tail;

pub use tail::Tail;
