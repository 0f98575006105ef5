//! Generated from `proto/dogwatch/v1/*.proto`. Use it at the edges only; [`crate::convert`] leads in and out.

#[expect(missing_docs, clippy::all, reason = "generated code; its documentation is the .proto files'")]
mod generated {
    tonic::include_proto!("dogwatch.v1");
}

pub use generated::*;
