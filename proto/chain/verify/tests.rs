//! A store of three nodes, written as nodes and collector would, and then tampered with by someone who can write
//! every byte of it but has no node's key.

mod store;
mod tampering;
mod whole;
