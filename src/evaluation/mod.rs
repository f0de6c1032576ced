//! Statistics on similarities: plain numbers in, plain numbers out.

mod tail;

pub use tail::Tail;
